"""DICOM files: one 8-bit picture from one frame, as a viewer would show it. Needs pydicom (extra ``dicom``).

No text of a file's tags, nor of pydicom's messages, which may quote them, goes into an error, a warning or a log.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import apply_color_lut, apply_rescale, apply_voi, apply_windowing, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from cvrnet.data.limits import MAX_PIXELS, WINDOWS, Mode, Refused, in_turn

MAX_FRAMES = 10_000
"""More frames are refused: the longest CT volumes have some 3,000."""

DAMAGED = (
    OSError,
    ValueError,
    AttributeError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    RuntimeError,
    AssertionError,
    BytesLengthException,
    InvalidDicomError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files."""

_RADIOGRAPHS = ("", "CR", "DX", "DR", "RG", "RF", "OT", "CT")
_CHEST = ("CHEST", "THORA", "TORAX", "LUNG", "PULMO", "TORSO", "RIB", "WHOLEBODY", "PORTCHEST")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_DEFERRED = 4096


def read_frame(path: str | os.PathLike[str], frame: int | None, mode: Mode, window: str) -> np.ndarray:
    """One frame as uint8 (H, W) or (H, W, 3); see `cvrnet.data.read_image` for what is done to the values.

    Args:
        path: A file with DICOM's preamble.
        frame: From 1; None where the file has one only.
        mode: ``"L"`` or ``"RGB"``.
        window: One of `WINDOWS`, for a CT; ``""`` for the file's own.

    Raises:
        Refused: Why it is no picture of a chest that can be read, in one line without any tag's value.
    """
    with quiet():
        header = read_header(path)
        frames = frame_count(header, path)
        _check_chest(header)
        if frame is None and frames > 1:
            raise Refused(
                f"{frames} frames: name one, as in {os.path.basename(path)}#1; predict takes all of them, and averages"
            )
        if not 1 <= (frame or 1) <= frames:
            raise Refused(f"frame {frame} is not there: expected 1 to {frames}")
        index = (frame or 1) - 1
        with in_turn(int(header.Rows) * int(header.Columns)):
            try:
                _check_codestream(path, header, index, frames)
                values = pixel_array(path, index=index, decoding_plugin=_decoder(header))
            except DAMAGED as error:
                raise Refused(_why_undecodable(header, error)) from None
            try:
                picture = _picture(values, header, window)
            except DAMAGED as error:
                raise Refused(f"its window, palette or rescaling is damaged ({type(error).__name__})") from None
    if picture.ndim == 2:
        return picture if mode == "L" else np.repeat(picture[..., None], 3, axis=2)
    return picture if mode == "RGB" else np.array(Image.fromarray(picture).convert("L"))


def read_header(path: str | os.PathLike[str], tags: Sequence[str] | None = None) -> Dataset:
    """The tags, without the pixels.

    Raises:
        Refused: The file is damaged, or compressed as a whole.
    """
    with quiet():
        try:
            if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise Refused("its transfer syntax is not supported: a deflated file; expected one that is not")
            return dcmread(path, defer_size=_DEFERRED, specific_tags=None if tags is None else list(tags))
        except DAMAGED as error:
            if isinstance(error, OSError) and error.strerror:
                raise
            raise Refused(f"a damaged or truncated DICOM file ({type(error).__name__})") from None


def frame_count(header: Dataset, path: str | os.PathLike[str]) -> int:
    """How many frames a file says that it has, if it can have so many.

    Raises:
        Refused: There is no image, or its size is not possible.
    """
    try:
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise Refused("a DICOM file without pixel data, no image")
        height, width = int(header.Rows), int(header.Columns)
        frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
        words = max(int(header.get("BitsAllocated") or 16) // 16, 1)
    except DAMAGED:
        raise Refused("a damaged DICOM file: it does not say how large the image is") from None
    if height < 1 or width < 1 or samples not in (1, 3):
        raise Refused(f"{width} x {height} pixels of {samples} samples are not possible")
    if height * width > (most := MAX_PIXELS // (samples * words)):  # colour and 32 bits take as much more memory
        raise Refused(f"{width} x {height} pixels are more than the {most:,} allowed")
    if not 1 <= frames <= MAX_FRAMES:
        raise Refused(f"{frames} frames: expected 1 to {MAX_FRAMES:,}")
    if os.path.getsize(path) < _smallest(header, frames):
        raise Refused("truncated: the file is too small for the pixels that it declares")
    return frames


def _smallest(header: Dataset, frames: int) -> int:
    """Bytes that the pixels take at least."""
    try:
        compressed = header.file_meta.TransferSyntaxUID.is_compressed
        return 16 * frames if compressed or "PixelData" not in header else get_expected_length(header)
    except DAMAGED:
        return 0  # what is missing is told when the pixels are read


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what pydicom says in this thread, which may quote tags, out of warnings and logs."""
    # A lasting filter: catch_warnings would change the other threads' filters too.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    before = getattr(_reading, "now", False)
    _reading.now = True
    try:
        yield
    finally:
        _reading.now = before


_reading = threading.local()


def _is_told(record: logging.LogRecord) -> bool:
    return not getattr(_reading, "now", False)


logging.getLogger("pydicom").addFilter(_is_told)


def _check_chest(header: Dataset) -> None:
    try:
        modality, part = (str(header.get(name) or "").strip().upper() for name in ("Modality", "BodyPartExamined"))
    except DAMAGED:
        raise Refused("a damaged DICOM file: modality or body part cannot be read") from None
    if modality not in _RADIOGRAPHS:
        raise Refused("its tags name another modality: expected a radiograph or a CT")
    part = "".join(filter(str.isalnum, part))
    if part and ("SPINE" in part or not any(name in part for name in _CHEST)):
        raise Refused("not a chest: its tags name another part of the body")


def _check_codestream(path: str | os.PathLike[str], header: Dataset, index: int, frames: int) -> None:
    """Refuse a compressed frame that is larger than the tags say, before a decoder makes room for it."""
    if "PixelData" not in header or not header.file_meta.TransferSyntaxUID.is_compressed:
        return
    element = header.get_item("PixelData")
    with open(path, "rb") as file:
        start: Any = getattr(element, "value_tell", None) or element.file_tell
        file.seek(start)
        size = codestream_size(get_frame(file, index, number_of_frames=frames))
    if size and size != (header.Rows, header.Columns):
        raise Refused("the compressed image has not the size that the tags say")


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None for others.

    >>> codestream_size(bytes.fromhex("ffd8 ffc0 000b 08 0010 0020 01 011100"))
    (16, 32)
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0:
        right, lower, left, upper = struct.unpack_from(">4I", data, start + 8)
        return lower - upper, right - left
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">2H", data, at + 5)
            return height, width
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _decoder(header: Dataset) -> str:
    """pydicom's own for run-length encoding: pylibjpeg's panics on damaged data. Else "", the first that is there."""
    return "pydicom" if header.file_meta.get("TransferSyntaxUID") == RLELossless else ""


def _why_undecodable(header: Dataset, error: Exception) -> str:
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        return "its transfer syntax is not given"
    try:
        known = get_decoder(syntax).is_available
    except NotImplementedError:
        known = False
    if not known:
        return 'its transfer syntax is not supported, or needs a decoder: pip install "cvrnet[dicom]"'
    return f"its pixels are damaged, truncated, or not what the tags say ({type(error).__name__})"


def _picture(values: np.ndarray, header: Dataset, window: str) -> np.ndarray:
    """A frame's stored values as uint8 (H, W) or (H, W, 3)."""
    kind = str(header.PhotometricInterpretation)
    if window and (kind not in _GREY or header.get("Modality") != "CT" or "RescaleIntercept" not in header):
        raise Refused(f"the window {window!r} needs Hounsfield units: expected a CT with rescale slope and intercept")
    if kind == "PALETTE COLOR":
        colour = apply_color_lut(values, header)
        return (colour >> 8 if colour.dtype.itemsize > 1 else colour).astype(np.uint8)[..., :3]
    if values.ndim == 3:
        factor = 255 / (2.0 ** int(header.BitsStored) - 1)
        return _by_value(values, lambda samples: samples * factor)
    if kind not in _GREY:
        raise Refused("its photometric interpretation is not supported")
    grey = _by_value(values, lambda stored: _shown(stored, header, window))
    return 255 - grey if kind == "MONOCHROME1" else grey


def _by_value(values: np.ndarray, shown: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What is shown for each value, rounded to uint8; found once for each value of up to 16 bits that is there."""
    if values.dtype.kind not in "iu" or values.itemsize > 2:
        return np.rint(shown(values).clip(0, 255)).astype(np.uint8)
    places = values.view(f"u{values.itemsize}")
    there = np.zeros(256**values.itemsize, bool)
    for row in places:  # row by row: numpy makes 8 bytes of each index
        there[row] = True
    table = np.zeros(there.shape, np.uint8)
    stored = np.flatnonzero(there).astype(places.dtype).view(values.dtype)
    table[there] = np.rint(shown(stored).clip(0, 255)).astype(np.uint8)
    picture = np.empty(values.shape, np.uint8)
    for row, target in zip(places, picture, strict=True):
        target[...] = table[row]
    return picture


def _shown(stored: np.ndarray, header: Dataset, window: str) -> np.ndarray:
    """Values after modality and VOI transformation (PS3.3 C.11.1 and C.11.2), in 0..255."""
    values = apply_rescale(stored, header)
    if not np.isfinite(values).all():
        raise Refused("some pixel values are not finite")
    if window:
        return _windowed(values, *WINDOWS[window], "LINEAR")
    if header.get("VOILUTSequence"):
        descriptor = header.VOILUTSequence[0].LUTDescriptor
        depth = int(descriptor[2])
        header.VOILUTSequence[0].LUTDescriptor = [*descriptor[:2], 16]  # pydicom would count entries in 8 bits
        return apply_voi(np.rint(values).astype(np.int64), header) * (255 / (2**depth - 1))
    level, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if level is not None and width is not None and width >= 1:
        return _windowed(values, level, width, str(header.get("VOILUTFunction") or "LINEAR"))
    if values.dtype == np.uint8 and header.BitsStored == 8:
        return values
    inside = values[stored != header.get("PixelPaddingValue")]
    low, high = (inside.min(), inside.max()) if inside.size else (0, 0)
    return (values - float(low)) * (255 / (float(high) - float(low))) if high > low else np.zeros(values.shape)


def _windowed(values: np.ndarray, level: float, width: float, function: str) -> np.ndarray:
    settings = Dataset()
    settings.PhotometricInterpretation = "MONOCHROME2"
    settings.BitsStored, settings.PixelRepresentation = 8, 0
    settings.WindowCenter, settings.WindowWidth, settings.VOILUTFunction = level, width, function
    return apply_windowing(values, settings)


def _first(value: object) -> float | None:
    """The first of an element's values: windows come in alternatives."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value is None or value == "" else float(str(value))
