"""What all HTML pages share: one file that needs no network and no scripts, prints well and fits a phone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 180  # longest side as shown, in pixels
SCALE = 0.54  # of a figure's pixels, at 200 dots an inch: its letters come out a little smaller than the page's
DISCLAIMER = "Research software, not a medical device."


def page(title: str, heading: str, lead: str, parts: Iterable[str], made_by: str) -> str:
    """A whole page.

    Args:
        title: Of the window, as text.
        heading: The first heading, as text.
        lead: The line below it, as text.
        parts: The content, as HTML.
        made_by: The command, for the last line.
    """
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>",
            files("cvrnet").joinpath("page.css").read_text(encoding="utf-8"),
            f"</style></head><body><header><h1>{escape(heading)}</h1><p>{escape(lead)}</p></header><main>",
            *parts,
            f"</main><footer>Made by {escape(made_by)}. {DISCLAIMER}</footer></body></html>\n",
        ]
    )


def table(rows: Sequence[Mapping[str, Any]], style: str = "", groups: Sequence[tuple[str, int]] = ()) -> str:
    """A table that scrolls within itself where it is wider than the page.

    Args:
        rows: One mapping a row, all with the same keys: the header.
        style: A class of page.css: ``scores`` puts all columns but the first to the right, and lets a cell break after
            its first word where space is short: "0.96 ± 0.01".
        groups: Headings above the header, each with the number of columns it spans.
    """
    above = "".join(
        f'<th scope="colgroup" colspan="{span}"{" class=group" if name else ""}>{escape(name)}</th>'
        for name, span in groups
    )
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_cell(str(cell))}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table{f" class={style}" if style else ""}><thead>{f"<tr>{above}</tr>" if above else ""}'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first, space, rest = text.partition(" ")
    return f"{escape(first)} <span>{escape(rest)}</span>" if space else escape(text)


def details(summary: str, content: str) -> str:
    """Content (HTML) that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of text; ``style`` is a class of page.css."""
    return f"<p{f' class={style}' if style else ''}>{escape(text)}</p>"


def picture(png: bytes, description: str, caption: str = "") -> str:
    """A PNG file within the page, no wider than it, all pictures to the same scale."""
    data = base64.b64encode(png).decode("ascii")
    with Image.open(io.BytesIO(png)) as image:
        width = round(image.width * SCALE)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img alt="{escape(description)}" width="{width}" src="data:image/png;base64,{data}">{below}</figure>'
    )


def thumbnail(pixels: NDArray[np.uint8], name: str, lines: Sequence[str]) -> str:
    """A small picture of an image, of shape (H, W) or (H, W, 3), with its name and further lines below."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    caption = "<br>".join(escape(line) for line in (name, *lines))
    return (
        f'<figure><img alt="{escape(name)}" width="{image.width}" height="{image.height}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
