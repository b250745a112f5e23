"""Turn the values stored in a DICOM file into grey levels: select the bits, apply the modality and VOI transformations.

Vendors' tables and windows often contradict the standard. Each transformation is therefore checked before it is used.
If a transformation cannot be right, the next is tried: first VOI LUTs, then windows, then the range of the picture's
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_windowing
from pydicom.uid import RLELossless

from cvrnet.data.grey import by_value, robust_ends
from cvrnet.data.limits import WINDOWS, Refused

_MOST_TABLES = 100
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # PS3.3 C.11.2.1.2 and C.11.2.1.3


def keep_stored_bits(cells: np.ndarray, header: Dataset) -> np.ndarray:
    """Return pixel cells without the bits that do not belong to the pixel value; signed values are sign-extended.

    A pixel value takes BitsStored bits of its cell, and HighBit is the position of the highest of them. The other bits
    may hold overlays (PS3.5 8.1.1).
    """
    width, bits = 8 * cells.itemsize, int(header.BitsStored)
    if cells.dtype.kind not in "iu" or not 0 < bits < width:
        return cells
    high, syntax = int(header.get("HighBit") or bits - 1), header.file_meta.TransferSyntaxUID
    if not bits - 1 <= high < width:
        high = bits - 1
    elif syntax.is_compressed and syntax != RLELossless:
        least, most = int(cells.min()), int(cells.max())
        if -(2 ** (bits - 1)) <= least and most < 2 ** (bits if least >= 0 else bits - 1):
            high = bits - 1  # the codestream has BitsStored bits, and decoders align these at bit 0
    return (cells << (width - 1 - high)) >> (width - bits)


def _stored_limits(cells: np.ndarray, header: Dataset) -> tuple[int, int]:
    """Return the least and the largest value that BitsStored bits can have."""
    bits = min(int(header.BitsStored), 8 * cells.itemsize)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if cells.dtype.kind == "i" else (0, 2**bits - 1)


def grey_picture(cells: np.ndarray, header: Dataset, window: str, version: int) -> np.ndarray:
    """Return pixel cells (H, W) of a MONOCHROME1 or MONOCHROME2 image as grey levels, uint8.

    ``window`` is as in `read_image`, and ``version`` is its ``grey_version``.
    """
    values, padding, blank = keep_stored_bits(cells, header), _padding(cells, header), None
    least, most = _stored_limits(cells, header)
    if padding and not least <= padding[0] <= padding[1] <= most:
        # The padding value needs more than BitsStored bits, which PS3.3 C.7.5.1.1.2 forbids. Cut to BitsStored bits, it
        # would equal the values of real pixels. So find the padding before the cut.
        blank = (cells >= padding[0]) & (cells <= padding[1])
        padding, blank = None, None if blank.all() else blank
    grey = by_value(
        values,
        lambda stored, counts: _Shown(stored, counts, header, padding).levels(window, version),
        None if blank is None else ~blank,
    )
    if header.PhotometricInterpretation == "MONOCHROME1":  # its lowest value is white (PS3.3 C.7.6.3.1.2)
        np.subtract(255, grey, out=grey)
    if blank is not None:
        grey[blank] = 0
    return grey


def _padding(cells: np.ndarray, header: Dataset) -> tuple[int, int] | None:
    """Return the least and the largest value of padding pixels (PS3.3 C.7.5.1.1.2); None if the file declares none."""
    if not isinstance(value := header.get("PixelPaddingValue"), int) or cells.dtype.kind not in "iu":
        return None
    limit = header.get("PixelPaddingRangeLimit")
    # Read the bits as the type of the pixels: some files write negative values as US (unsigned), and large values as SS
    # (signed).
    ends = [int(end) % 2 ** (8 * cells.itemsize) for end in (value, limit if isinstance(limit, int) else value)]
    low, high = sorted(np.array(ends, f"u{cells.itemsize}").view(cells.dtype).tolist())
    return low, high


class _Shown:
    """Maps the values of one picture to grey levels; `counts` is the number of pixels of each value (None: one)."""

    def __init__(
        self, stored: np.ndarray, counts: np.ndarray | None, header: Dataset, padding: tuple[int, int] | None
    ) -> None:
        self.stored, self.counts, self.header, self.padding = stored, counts, header, padding
        modality = modality_transformation(stored, header)
        self.values = modality(stored)
        if not np.isfinite(self.values).all():
            raise Refused("some pixel values are not finite")
        integers = stored.dtype.kind in "iu"
        ends = modality(np.array(_stored_limits(stored, header) if integers else (stored.min(), stored.max())))
        #: The range of all values that the pixels could have.
        self.low, self.high = np.sort(ends).astype(float).tolist()

    def levels(self, window: str, version: int) -> np.ndarray:
        if window:
            return _windowed(self.values, *WINDOWS[window], "LINEAR")
        # A table takes precedence over a window, as in pydicom's apply_voi_lut.
        for table in read_tables(self.header, "VOILUTSequence", self.values, (self.low, self.high)):
            shown, ends = table.look_up(self.values), table.look_up(np.array([self.low, self.high]))
            if np.ptp(np.concatenate([shown, ends])):
                return shown * (255 / table.white)
        for level, width, function in _windows(self.header):
            dark, bright = _windowed(np.array([self.low, self.high]), level, width, function)
            # A window that fails this test is too wide: all values would get one grey level.
            if round(dark) != round(bright) or round(dark) in (0, 255):
                return _windowed(self.values, level, width, function)
        low, high = self._range() if version > 1 else self._range_1()
        return (self.values - low) * (255 / (high - low)) if high > low else np.zeros(self.values.shape)

    def _range(self) -> tuple[float, float]:
        """Return the values that become black and white if there is no usable table or window, in grey version 2."""
        if self.header.BitsStored == 8 and self.stored.dtype.kind == "u" and "ModalityLUTSequence" not in self.header:
            return self.low, self.high
        inside = self._inside()
        return robust_ends(self.values[inside], None if self.counts is None else self.counts[inside])

    def _range_1(self) -> tuple[float, float]:
        """Like `_range`, but in grey version 1: least and greatest value, or 0 and 255 for 8 bits without rescaling."""
        rescaled = "RescaleSlope" in self.header and "RescaleIntercept" in self.header
        if self.stored.dtype == np.uint8 and self.header.BitsStored == 8 and not rescaled:
            return 0, 255
        inside = self.values[self._inside()]
        return float(inside.min()), float(inside.max())

    def _inside(self) -> np.ndarray:
        """Return a mask of the values that are not padding; all values if the whole picture would be padding."""
        low, high = self.padding or (1, 0)
        inside = (self.stored < low) | (self.stored > high)
        return inside if inside.any() else ~inside


def modality_transformation(stored: np.ndarray, header: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that applies the modality LUT, or slope and intercept, to stored values (PS3.3 C.11.1)."""
    for table in read_tables(header, "ModalityLUTSequence", stored, _stored_limits(stored, header)):
        return table.look_up
    slope, intercept = (next(_numbers(header, name), None) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or slope == 0 or (slope, intercept) == (1, 0):  # DCMTK also ignores slope 0
        return lambda values: values
    return lambda values: values * np.float64(slope) + intercept


class Table(NamedTuple):
    """A lookup table (PS3.3 C.11.1.1.1 and C.11.2.1.1)."""

    entries: np.ndarray  #: unsigned integers
    first: int  #: the value that the first entry is for
    white: float  #: the value that becomes white

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """Return the entries for some values; values beyond an end of the table get the entry at that end."""
        places = np.rint(values.astype(np.float64)) - self.first
        return self.entries[np.clip(places, 0, len(self.entries) - 1).astype(np.int64)]


def read_tables(header: Dataset, name: str, values: np.ndarray, limits: tuple[float, float]) -> Iterator[Table]:
    """Yield the usable tables in the sequence ``name``.

    A table is usable if its data are not cut off before the entry for the largest of ``values``. A table's ``white`` is
    the largest number that the declared depth allows. But if the largest entry that a pixel can get needs more or fewer
    bits than this depth, the declared depth counts as wrong, and this entry is ``white``. ``limits`` are the least and
    the largest value that a pixel of this file could have, whatever the picture contains.
    """
    for item in (header.get(name) or ())[:_MOST_TABLES]:
        table = None
        with suppress(Exception):  # pydicom raises nearly every built-in exception on damaged tables
            table = _read_table(item, header, values, limits)
        if table is not None:
            yield table


def _read_table(item: Dataset, header: Dataset, values: np.ndarray, limits: tuple[float, float]) -> Table | None:
    count, first, depth = (int(number) for number in item.LUTDescriptor)
    entries = table_entries(item["LUTData"].value, count, depth, header)
    # One VR is given for the whole descriptor, although only its second number may be negative.
    if first >= 2**15 and (values.min() < 0 or header.get("PixelRepresentation") == 1):
        first -= 2**16
    needed = min(int(values.max()) - first, (count % 2**16 or 2**16) - 1)
    if not len(entries) or needed >= len(entries):
        return None
    # Some devices declare a wrong depth: Agfa's CRs declare 16 bits for 12-bit entries, and other devices declare 12
    # bits for 16-bit entries. The depth is then taken from the entries, as DCMTK, Horos and Cornerstone can do.
    low, high = (min(max(round(limit) - first, 0), len(entries) - 1) for limit in limits)
    largest = int(entries[low : high + 1].max())
    fits = depth > 0 and 2 ** (depth - 1) <= largest < 2**depth
    return Table(entries, first, float(2**depth - 1 if fits else max(largest, 1)))


def table_entries(data: object, count: int, depth: int, header: Dataset) -> np.ndarray:
    """Return the first `count` entries (0 means 65536) of a table of words or packed bytes, as unsigned integers."""
    count = count % 2**16 or 2**16
    if isinstance(data, bytes):
        little = header.file_meta.TransferSyntaxUID.is_little_endian
        words = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2" if little else ">u2")
    else:
        words = (np.atleast_1d(np.array(data, np.int64)) % 2**16).astype(np.uint16)
    if count > 1 and len(words) == (count + 1) // 2:  # as in DCMTK's DiLookupTable::checkTable
        packed = words.astype("<u2").view(np.uint8)[:count]
        steps = np.diff(packed.astype(np.int16))
        # The data are half as long as a table of words. If the depth is at most 8, or the bytes only rise or only fall,
        # the bytes are the entries. Otherwise, the data are a table of words that was cut off.
        if depth <= 8 or (steps >= 0).all() or (steps <= 0).all():
            return packed
    return words[:count]


def _windows(header: Dataset) -> Iterator[tuple[float, float, str]]:
    """Yield level, width and function of each valid window in a file."""
    function = str(header.get("VOILUTFunction") or "").strip().upper()
    function = function if function in FUNCTIONS else "LINEAR"
    least = 1 if function == "LINEAR" else np.nextafter(0, 1)  # PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2
    for level, width in zip(_numbers(header, "WindowCenter"), _numbers(header, "WindowWidth"), strict=False):
        if np.isfinite(level) and np.isfinite(width) and width >= least:
            yield level, width, function


def _windowed(values: np.ndarray, level: float, width: float, function: str) -> np.ndarray:
    settings = Dataset()
    settings.PhotometricInterpretation = "MONOCHROME2"
    settings.BitsStored, settings.PixelRepresentation = 8, 0  # these give apply_windowing's output range, 0..255
    settings.WindowCenter, settings.WindowWidth, settings.VOILUTFunction = level, width, function
    with np.errstate(over="ignore"):
        return apply_windowing(values, settings)


def _numbers(header: Dataset, name: str) -> Iterator[float]:
    """Yield an element's values, such as those of several windows; NaN for a value that is not a number."""
    values: object
    try:
        values = header.get(name)
    except (
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
    ):  # pydicom converts all values on access, so one bad value makes all of them inaccessible
        raw = getattr(header.get_item(name), "value", None)
        values = raw.decode("latin-1").split("\\") if isinstance(raw, bytes) else None
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else (values,):
        if value is not None and value != "":
            number = float("nan")
            with suppress(ValueError, TypeError):
                number = float(str(value))
            yield number
        elif values is not value:
            yield float("nan")
