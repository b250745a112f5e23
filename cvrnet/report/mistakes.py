"""The most confident mistakes, to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import ImageError, read_image
from cvrnet.html import Picture, small_picture
from cvrnet.report.report_tables import Row

SHOWN = 12


def mistake_thumbnails(run: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[Picture | str, str, list[str]]]:
    """For each row of `mistake_rows`: the image, or why it cannot be shown; its path; and lines of text."""
    shown = []
    for row in rows:
        where = [row["source"], row["fold"] and f"fold {row['fold']}"]
        answer = f"{row['label']} taken for {row['prediction']}, {row['probability']:.3f}"
        picture = _picture(image_path(run, row["path"]))
        shown.append((picture, row["path"], [answer, ", ".join(filter(None, where))]))
    return shown


def image_path(run: Mapping[str, Any], name: str) -> Path:
    """Where the image with this path in the data set should be, by what run.json says of the data set."""
    data = Path(run["data"])
    return (data if data.is_dir() else data.parent) / name


def _picture(path: Path) -> Picture | str:
    try:
        return small_picture(read_image(path))
    except ImageError:
        return "image cannot be read" if path.is_file() else "image not found"
