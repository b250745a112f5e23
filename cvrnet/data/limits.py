"""Shared by the readers of images: modes, windows, and limits that are checked before an image is decoded."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from cvrnet.errors import UserError

Mode = Literal["L", "RGB"]

MAX_PIXELS = 36_000_000
"""Larger images are refused. The largest radiographs have about 30 million pixels, and some formats take 25 bytes of
memory for each while they are decoded."""

MAX_INPUT_PIXELS = 2048 * 2048
"""A model's input is not larger: at 2048 x 2048, the default batch of 8 images takes a CVR-Net many gigabytes."""

MAX_SCANS = 100  #: JPEG files of more scans are refused; a progressive JPEG has about ten

WINDOWS = {"lung": (-600.0, 1500.0), "soft-tissue": (50.0, 400.0)}
"""Level and width in Hounsfield units, the usual settings for chest CT."""


class Refused(Exception):  # noqa: N818
    """The reason why an image is not read. `read_image` puts the path before it."""


_LARGE = 20_000_000  # pixels
_one_large = threading.Lock()


def in_turn(pixels: int) -> AbstractContextManager[object]:
    """Context for decoding: only one thread at a time decodes a large image, which bounds the memory."""
    return _one_large if pixels > _LARGE else nullcontext()


def check_mode(mode: str) -> None:
    """UserError for an unknown image mode."""
    if mode not in ("L", "RGB"):
        raise UserError(f"image mode {mode!r} is not known: expected 'L' or 'RGB'")
