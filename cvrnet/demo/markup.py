"""Write predictions as HTML, with the macros of templates/answers.html, which escape all text."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.demo.viewing import jpeg
from cvrnet.explain.overlay import COLOURS
from cvrnet.html import template_environment
from cvrnet.text import sheet_cell

_ENVIRONMENT = template_environment("cvrnet.demo")
_ENVIRONMENT.filters["log"] = math.log
_MACROS: Any = _ENVIRONMENT.get_template("answers.html").module
header, problem, probabilities, heads = _MACROS.header, _MACROS.problem, _MACROS.probabilities, _MACROS.heads


def overlay(picture: NDArray[np.uint8], target: str, part: str, threshold: float) -> str:
    """Return the HTML of a picture (H, W, 3) that has a map drawn on it, and of the scale of the map's colours."""
    colours = [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in COLOURS[::2]]
    return _MACROS.overlay(_embedded(picture), target, part, threshold, colours)


def plain(picture: NDArray[np.uint8], sentence: str) -> str:
    """Return the HTML of a picture (H, W, 3) without a map, and of a sentence that says why there is no map."""
    return _MACROS.plain(_embedded(picture), sentence)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML for many images: the count of each prediction, the unreadable files, a CSV file, and a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(sheet_cell, columns))
    writer.writerows([sheet_cell(row[name]) for name in columns] for row in rows)
    read, unread = [row for row in rows if not row["error"]], [row for row in rows if row["error"]]
    counts = sorted(Counter(row["prediction"] for row in read).items())
    shown = [name for name in columns if name != "error"]
    return _MACROS.table(shown, read, unread, counts, _data_url("text/csv;charset=utf-8", text.getvalue().encode()))


def _embedded(picture: NDArray[np.uint8]) -> dict[str, Any]:
    height, width = picture.shape[:2]
    return {"width": width, "height": height, "url": _data_url("image/jpeg", jpeg(picture))}


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
