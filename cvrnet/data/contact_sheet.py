"""Draw a contact sheet of a data set: a row of small images for each pair of label and source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvrnet.data.image import ImageError, read_image
from cvrnet.data.overview import Overview
from cvrnet.data.record import Record
from cvrnet.files import atomic_write
from cvrnet.formatting import count
from cvrnet.text import printable

MOST_ROWS = 40
COLUMNS = 8
SIDE, GAP, HEADING = 112, 6, 22  # pixels
_BACKGROUND, _INK, _MISSING = 255, 0, 200  # grey levels


def write_contact_sheet(path: str | Path, overview: Overview) -> list[str]:
    """Write a PNG file with a row of up to `COLUMNS` images for each pair of label and source.

    The images of a row are of different patients, if there are enough patients. The rows are sorted by label and
    source. If there are more than `MOST_ROWS` pairs, only the pairs with the most images are shown.

    Returns:
        One line for each image that could not be read, and one more line if some rows are not shown.
    """
    groups: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record, labels in zip(overview.records, overview.labels, strict=True):
        for label in labels or ("",):
            groups[label, record.source].append(record)
    largest = sorted(groups, key=lambda key: -len(groups[key]))[:MOST_ROWS]
    notes = [f"the contact sheet shows the {MOST_ROWS} largest of {len(groups)} pairs of label and source"]
    rows = {key: groups[key] for key in sorted(largest)}
    notes = notes if len(groups) > len(rows) else []
    sheet = Image.new("L", (GAP + COLUMNS * (SIDE + GAP), len(rows) * (HEADING + SIDE + GAP) + GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, ((label, source), members) in enumerate(rows.items()):
        top = GAP + number * (HEADING + SIDE + GAP)
        title = " · ".join(printable(text) for text in (label or "no label", source or "no source"))
        draw.text((GAP, top), f"{title[:80]} · {count(len(members), 'image')}", _INK, font)
        for column, record in enumerate(_chosen(members)):
            tile, problem = _tile(record)
            notes += [problem] if problem else []
            sheet.paste(tile, (GAP + column * (SIDE + GAP), top + HEADING))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return notes


def _chosen(records: Sequence[Record]) -> list[Record]:
    """Return up to `COLUMNS` evenly spaced images, one of each patient if there are enough patients."""
    first = {record.patient_id or record.name: record for record in reversed(records)}
    pool = list(reversed(first.values())) if len(first) >= COLUMNS else records
    count = min(COLUMNS, len(pool))
    return [pool[i * len(pool) // count] for i in range(count)]


def _tile(record: Record) -> tuple[Image.Image, str]:
    """Return a square picture with the undistorted image, and why the image could not be read (``""`` if it could)."""
    tile = Image.new("L", (SIDE, SIDE), _MISSING)
    try:
        picture = Image.fromarray(np.asarray(read_image(record.path, any_body_part=True)))
    except ImageError as error:
        ImageDraw.Draw(tile).text((8, SIDE // 2 - 8), "unreadable", _INK, ImageFont.load_default(12))
        return tile, record.problem(error.reason)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    tile.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return tile, ""
