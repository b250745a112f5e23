"""Turn grey values of more than 8 bits into 8 bits; a few extreme pixels do not change the range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cvrnet.data.limits import Refused

TAIL = 0.005
"""At each end of a picture's values, this share of the pixels does not affect the range of the grey levels. Such pixels
may be dead or hot pixels, or burned-in text."""

VERSIONS = (1, 2)
"""Versions of the rule that turns a picture of more than 8 bits into 8 bits (docs/data.md): extreme pixels affect the
range in version 1, but not in version 2. Models that were trained before version 2 existed still use version 1."""
LATEST = VERSIONS[-1]

_PART = 2**20  # values that are counted at once: NumPy converts each to 8 bytes

Shown = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""A function that takes values, (N,), and how often each occurs, (N,) (None: once), and returns grey levels in
0..255."""


def by_value(pixels: np.ndarray, shown: Shown, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the grey level of each pixel, rounded to uint8.

    For integers of up to 16 bits, `shown` gets each occurring value once instead of all pixels. This saves memory: the
    results of `shown` are float64, 8 bytes each. The mask `counted` is used only for these integers: pixels outside the
    mask become 0, unless their value also occurs inside.
    """
    if pixels.dtype.kind not in "iu" or pixels.itemsize > 2:
        return np.rint(shown(pixels.ravel(), None).clip(0, 255)).astype(np.uint8).reshape(pixels.shape)
    unsigned = pixels.view(f"u{pixels.itemsize}")
    flat = unsigned.ravel() if counted is None else unsigned[counted]
    counts = np.zeros(256**pixels.itemsize, np.int64)
    for start in range(0, flat.size, _PART):
        counts += np.bincount(flat[start : start + _PART], minlength=len(counts))
    table = np.zeros(counts.shape, np.uint8)
    if (occurring := np.flatnonzero(counts)).size:
        values = occurring.astype(unsigned.dtype).view(pixels.dtype)
        table[occurring] = np.rint(shown(values, counts[occurring]).clip(0, 255))
    picture = np.empty(pixels.shape, np.uint8)
    for row, target in zip(unsigned, picture, strict=True):  # row by row: NumPy converts each index to 8 bytes
        target[...] = table[row]
    return picture


def robust_ends(values: np.ndarray, counts: np.ndarray | None) -> tuple[float, float]:
    """Return (low, high), the quantiles of the pixels at `TAIL` and at 1 - `TAIL`.

    If low and high are equal, the least and the largest value are returned instead. ``values`` and ``counts`` are the
    arguments of `Shown`.

    >>> robust_ends(np.array([0, 500, 900, 65535]), np.array([1, 5000, 5000, 1]))
    (500.0, 900.0)
    """
    if counts is None:
        low, high = np.quantile(values, (TAIL, 1 - TAIL), method="nearest")
    else:
        order = np.argsort(values, kind="stable")
        share = np.cumsum(counts[order]) / counts.sum()
        low = values[order][np.searchsorted(share, TAIL, side="right")]
        high = values[order][np.searchsorted(share, 1 - TAIL)]
    if low == high:  # a mask of a small lesion, for example
        low, high = values.min(), values.max()
    return float(low), float(high)


def bits_in_use(pixels: np.ndarray) -> int:
    """Return the number of bits that the pixels need if the share `TAIL` of brightest pixels is left out.

    >>> bits_in_use(np.array([100] + 999 * [4095] + [65535]))
    12
    """
    return int(np.quantile(pixels, 1 - TAIL, method="nearest")).bit_length()


def by_bits_in_use(values: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Return grey levels, 0 to 255, of unsigned integers: the 8 highest of the bits in use.

    The bits in use are those that the pixels need if the share `TAIL` of brightest pixels is left out. When the highest
    remaining value passes a power of two, the range from black to white does not double at once: otherwise, a few
    pixels more or less could halve the brightness of the whole image. Instead, the range grows linearly, and has
    doubled when the highest remaining value is 9/8 of the power of two.

    >>> by_bits_in_use(np.array([0, 2048, 4080, 65535]), np.array([9999, 9999, 9999, 1]))
    array([  0., 128., 255., 255.])
    """
    top = int(robust_ends(values, counts)[1])
    power = 2 ** (top.bit_length() - 1) if top > 255 else 128
    white = max(min(2 * power, power + 8 * (top - power)), 256)
    return np.floor(values * (256 / white)).clip(0, 255)


def to_8_bits(values: np.ndarray, version: int = LATEST) -> np.ndarray:
    """Return grey values (H, W) of any type as uint8; Refused for negative or non-finite values, and floats over 255.

    >>> to_8_bits(np.array([[0, 2048, 4080]], dtype=np.uint16))
    array([[  0, 128, 255]], dtype=uint8)
    >>> to_8_bits(np.array([[0, 0.5, 1]], dtype=np.float32))
    array([[  0, 128, 255]], dtype=uint8)
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Refused("some pixel values are not finite")
        if low < 0 or high > 255:
            raise Refused(f"pixel values go from {low:g} to {high:g}: floats must lie in 0..1 or 0..255")
        top = high if version == 1 else robust_ends(values, None)[1]
        return np.rint(values * 255 if top <= 1 else values).clip(0, 255).astype(np.uint8)
    if low < 0:
        raise Refused(f"pixel values go from {low} to {high}: they must not be negative")
    if version == 1:
        return (values >> max(int(high).bit_length() - 8, 0)).astype(np.uint8)
    return by_value(values, by_bits_in_use)
