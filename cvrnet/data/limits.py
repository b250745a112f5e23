"""Constants of the image readers: grey or RGB, CT windows, and limits that are checked before an image is decoded."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from cvrnet.errors import UserError

Mode = Literal["L", "RGB"]

MAX_PIXELS = 36_000_000
"""Larger images are refused. The largest radiographs have about 30 million pixels, and decoding some formats takes 25
bytes of memory per pixel."""

MAX_INPUT_PIXELS = 2048 * 2048
"""The largest number of pixels of a model's input. At 2048 x 2048, a CVR-Net needs many gigabytes for the default batch
of 8."""

MAX_SIDE = 65_535  #: pixels; most formats cannot declare more

MAX_SCANS = 100  #: the most scans of a JPEG; a progressive JPEG has about ten
_MOST_SCANNED = 20 * MAX_PIXELS  # the most pixels of all scans together

MOST_SLICES = 600  #: the most pictures in one bag (study or patient)

WINDOWS = {"lung": (-600.0, 1500.0), "soft-tissue": (50.0, 400.0)}
"""Level and width in Hounsfield units, the usual settings for chest CT."""


class Refused(Exception):  # noqa: N818
    """The error for an image that is refused. Its text is the reason; `read_image` adds the image's path."""


LARGE = 20_000_000  #: pixels; larger images are decoded one after another
_one_large = threading.Lock()


def in_turn(pixels: int) -> AbstractContextManager[object]:
    """Return a context for decoding: only one thread at a time decodes a large image, which bounds the memory."""
    return _one_large if pixels > LARGE else nullcontext()


def check_scans(scans: int, pixels: int) -> None:
    """Refuse a JPEG with too many scans: for each scan, even one of a few bytes, a decoder goes through all pixels."""
    most = min(MAX_SCANS, _MOST_SCANNED // max(pixels, 1))
    if scans > most:
        raise Refused(f"a JPEG of more than {most} scans, which would take very long to decode")


def check_size(width: int, height: int) -> None:
    """Refuse a picture that declares too many pixels, or too long a side."""
    if width * height > MAX_PIXELS:
        raise Refused(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
    if max(width, height) > MAX_SIDE:
        raise Refused(f"{width} x {height} pixels: expected at most {MAX_SIDE:,} per side")


def check_mode(mode: str) -> None:
    """Raise UserError for an unknown image mode."""
    if mode not in ("L", "RGB"):
        raise UserError(f"image mode {mode!r} is not known: expected 'L' or 'RGB'")
