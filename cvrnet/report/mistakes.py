"""The most confident mistakes, to look at."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from cvrnet.data import ImageError, read_image
from cvrnet.html import paragraph, thumbnail
from cvrnet.report.report_tables import Row, mistake_rows
from cvrnet.report.results import Results
from cvrnet.report.sections import Section

SHOWN = 12


def mistakes(results: Results) -> Section:
    """Thumbnails of the wrong predictions with the highest probability, where the images can still be read."""
    rows = mistake_rows(results.predictions)
    total = len(results.predictions.labels)
    title = "Most confident mistakes"
    if not rows:
        return Section(title, paragraph(f"None: all {total:,} predictions are right."))
    text = f"{len(rows):,} of {total:,} predictions are wrong. "
    text += "All are shown" if len(rows) <= SHOWN else f"The {SHOWN} most confident are shown"
    text += ", with the model's probability of its answer; tables/mistakes.csv has every one."
    top = rows[:SHOWN]
    paths = [image_path(results.run, row["path"]) for row in top]
    if not any(path.is_file() for path in paths):
        text += f" The images are not at {results.run['data']} any more (or on this machine), so only their paths are."
    figures = "".join(_figure(path, row) for path, row in zip(paths, top, strict=True))
    return Section(title, paragraph(text) + f'<div class="row">{figures}</div>', {"mistakes": rows})


def image_path(run: Mapping[str, Any], name: str) -> Path:
    """Where the image with this path in the data set should be, by what run.json says of the data set."""
    data = Path(run["data"])
    return (data if data.is_dir() else data.parent) / name


def _figure(path: Path, row: Row) -> str:
    lines = [f"{row['label']} taken for {row['prediction']}, {row['probability']:.3f}"]
    lines += [", ".join(part for part in (row["source"], row["fold"] and f"fold {row['fold']}") if part)]
    try:
        return thumbnail(read_image(path), row["path"], lines)
    except ImageError:
        reason = "cannot be read" if path.is_file() else "not found"
        caption = "<br>".join(escape(line) for line in (row["path"], *lines))
        return f'<figure><div class="absent">image {reason}</div><figcaption>{caption}</figcaption></figure>'
