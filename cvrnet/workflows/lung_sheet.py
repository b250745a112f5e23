"""Draw a contact sheet of lung masks that a segmenter found.

The sheet shows the masks that differ most from the masks of the data set, some implausible masks and, for each source
of images, some plausible masks.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cvrnet.data import Record
from cvrnet.data.lung_masks import Mask
from cvrnet.explain.overlay import as_colour, draw_outline
from cvrnet.files import atomic_write
from cvrnet.text import printable

SIDE, GAP, HEADING, COLUMNS, MOST_ROWS = 192, 6, 22, 8, 20
_GIVEN = (86, 180, 233)  # Okabe and Ito's sky blue
Tile = tuple[float, str, Image.Image]  # sorting key (the smallest comes first), caption, picture


class LungSheet:
    """Collects pictures with the outlines of their masks, but not more than the sheet can show."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Tile]] = defaultdict(list)
        self.seen: dict[str, int] = defaultdict(int)
        self._rng = np.random.default_rng(0)

    def compare(self, record: Record, picture: NDArray[np.uint8], given: Mask, found: Mask, dice: float) -> None:
        """Offer a picture with the data set's mask (blue) and the segmenter's mask (orange).

        Of all pictures that are offered, the sheet shows only those with the lowest Dice.
        """
        drawn = _recoloured(as_colour(picture), given)
        self._add("given (blue) and found (orange): lowest Dice", dice, f"Dice {dice:.3f}", draw_outline(drawn, found))

    def show(self, record: Record, picture: NDArray[np.uint8], mask: Mask, problem: str) -> None:
        """Add a picture with only the segmenter's mask.

        ``problem`` says why the mask is implausible; it is empty for a plausible mask. The sheet shows a random choice
        of the implausible masks, and of the plausible masks of each source.
        """
        drawn = draw_outline(as_colour(picture), mask)
        row = "implausible: used whole" if problem else f"found: {record.source or 'no source'}"
        self._add(row, float(self._rng.random()), problem or Path(record.name).stem, drawn)

    def _add(self, row: str, key: float, caption: str, drawn: NDArray[np.uint8]) -> None:
        self.seen[row] += 1
        tiles, most = self.rows[row], COLUMNS * (2 if row.startswith(("given", "implausible")) else 1)
        if len(tiles) < most or key < tiles[-1][0]:
            tile = Image.fromarray(drawn)
            tile.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
            tiles.append((key, caption, tile))
            tiles.sort(key=lambda each: each[0])
            del tiles[most:]

    def write(self, path: Path) -> None:
        """Write the sheet as a PNG file, atomically."""
        lines = [
            ("" if start else title, tiles[start : start + COLUMNS])
            for title, tiles in sorted(self.rows.items())[:MOST_ROWS]
            for start in range(0, len(tiles), COLUMNS)
        ]
        width, height = GAP + COLUMNS * (SIDE + GAP), max(1, len(lines)) * (2 * HEADING + SIDE + GAP) + GAP
        sheet = Image.new("RGB", (width, height), (255, 255, 255))
        draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(11)
        for number, (title, tiles) in enumerate(lines):
            top = GAP + number * (2 * HEADING + SIDE + GAP)
            if title:
                draw.text((GAP, top), f"{printable(title)[:80]} · {self.seen[title]:,} in all", (0, 0, 0), font)
            for column, (_, caption, tile) in enumerate(tiles):
                left = GAP + column * (SIDE + GAP)
                sheet.paste(tile, (left + (SIDE - tile.width) // 2, top + HEADING + (SIDE - tile.height) // 2))
                draw.text((left, top + HEADING + SIDE), caption_lines(caption), (0, 0, 0), small, spacing=0)
        buffer = BytesIO()
        sheet.save(buffer, "PNG")
        with atomic_write(path) as temporary:
            temporary.write_bytes(buffer.getvalue())


def caption_lines(text: str) -> str:
    """Return a caption in at most two lines that fit below a picture; a longer text ends with "..."."""
    return "\n".join(textwrap.wrap(printable(text), 34, max_lines=2, placeholder="..."))


def _recoloured(picture: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """Draw the outline of a mask in blue, with `draw_outline`."""
    drawn = draw_outline(picture, mask)
    drawn[(drawn != picture).any(-1)] = _GIVEN
    return drawn
