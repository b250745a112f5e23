"""Read and write boxes around lesions (the manifest's column ``lesion_boxes``), and make masks from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Box = tuple[float, float, float, float]  #: left, top, width and height in pixels of the image file


def parse_boxes(text: str) -> tuple[Box, ...] | None:
    """Return the boxes in a cell; None if the cell is not a list of boxes.

    >>> parse_boxes("10,20,30,40; 1.5,2,3,4")
    ((10.0, 20.0, 30.0, 40.0), (1.5, 2.0, 3.0, 4.0))
    >>> parse_boxes("10,20,30"), parse_boxes("1,2,0,4"), parse_boxes("")
    (None, None, ())
    """
    boxes: list[Box] = []
    for part in text.split(";") if text.strip() else []:
        try:
            left, top, width, height = map(float, part.split(","))
        except ValueError:
            return None
        if not all(map(math.isfinite, (left, top, width, height))) or width <= 0 or height <= 0:
            return None
        boxes.append((left, top, width, height))
    return tuple(boxes)


def boxes_text(boxes: Iterable[Sequence[float]]) -> str:
    """Return boxes as the text of a manifest's cell, rounded to one decimal; `parse_boxes` reads this text.

    >>> boxes_text([(10, 20, 30, 40), (225.08, 547.02, 86.78, 79.19)])
    '10,20,30,40;225.1,547,86.8,79.2'
    """
    return ";".join(",".join(f"{round(value, 1):.10g}" for value in box) for box in boxes)


def box_mask(boxes: Iterable[Box], height: int, width: int) -> np.ndarray:
    """Return a boolean array (H, W) that is true in every pixel that a box touches.

    >>> box_mask([(1, 0, 1.5, 1)], 2, 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.zeros((height, width), bool)
    for left, top, box_width, box_height in boxes:
        rows = slice(max(math.floor(top), 0), max(math.ceil(top + box_height), 0))
        mask[rows, max(math.floor(left), 0) : max(math.ceil(left + box_width), 0)] = True
    return mask
