"""Make HTML pages from jinja2 templates. Each page is one file with its pictures inside, and needs no scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from numpy.typing import NDArray
from PIL import Image

from cvrnet.formatting import counts, interval, number

THUMBNAIL = 180  # longest side as shown, in pixels
SCALE = 0.54  # CSS pixels for each pixel of a figure: the figure's text is then a little smaller than the page's
DISCLAIMER = "Research software, not a medical device."


def template_environment(package: str, folder: str = "templates", *, html: bool = True) -> Environment:
    """Return the jinja2 environment of a package's templates.

    With ``html``, the environment escapes HTML, because names in the user's data may contain any character.
    """
    made = Environment(
        loader=PackageLoader(package, folder),
        undefined=StrictUndefined,
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
    made.globals["disclaimer"] = DISCLAIMER  # pyrefly: ignore[unsupported-operation]
    return made


_templates = template_environment("cvrnet", "report/templates")
_templates.filters |= {"number": number, "interval": interval, "counts": counts}


@dataclass(frozen=True)
class Table:
    """A table inside a page."""

    titles: Sequence[str]  #: heading of each column
    rows: Sequence[Sequence[object]]
    groups: Sequence[tuple[str, int]] = ()  #: headings above the header, each with the number of columns it spans


@dataclass(frozen=True)
class Picture:
    """A picture inside a page: a data URI, and the size in CSS pixels at which to show it."""

    src: str
    width: int
    height: int


def figure_picture(png: bytes) -> Picture:
    """Convert a figure (the bytes of a PNG file) to a picture; all figures have the same scale, `SCALE`."""
    with Image.open(io.BytesIO(png)) as image:
        return Picture(_data_uri(png, "png"), round(image.width * SCALE), round(image.height * SCALE))


def small_picture(pixels: NDArray[np.uint8]) -> Picture:
    """Convert an image, uint8 (H, W) or (H, W, 3), to a thumbnail (JPEG)."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Picture(_data_uri(buffer.getvalue(), "jpeg"), image.width, image.height)


def render(template: str, **values: Any) -> str:
    """Return the HTML of a template (a file name in ``cvrnet/report/templates``), filled in with these values.

    Raises:
        LookupError: A value that the template needs is missing, for instance because a file of the run is damaged.
    """
    try:
        return _templates.get_template(template).render(values)
    except UndefinedError as error:
        raise LookupError(error.message) from error


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
