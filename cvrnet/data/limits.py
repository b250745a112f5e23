"""What is refused before it is decoded, and the vocabulary that the readers share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cvrnet.errors import UserError

Mode = Literal["L", "RGB"]

MAX_PIXELS = 36_000_000
"""Larger images are refused: the largest radiographs have about 30 million pixels, and some formats take 25 bytes for
each while they are decoded."""

MAX_SCANS = 100
"""A progressive JPEG has some ten."""

WINDOWS = {"lung": (-600.0, 1500.0), "soft-tissue": (50.0, 400.0)}
"""Level and width in Hounsfield units, as radiologists set them for a CT."""


class Refused(Exception):  # noqa: N818
    """A reason not to take the image, which `read_image` puts behind the path."""


_LARGE = 20_000_000
_large = threading.Lock()


@contextmanager
def in_turn(pixels: int) -> Iterator[None]:
    """Decode images of more than `_LARGE` pixels one after another, so that threads do not multiply what they take."""
    if pixels > _LARGE:
        with _large:
            yield
    else:
        yield


def check_mode(mode: str) -> None:
    """UserError if there is no such image mode."""
    if mode not in ("L", "RGB"):
        raise UserError(f"image mode {mode!r} is not known: expected 'L' or 'RGB'")
