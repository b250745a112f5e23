"""Read one frame of a DICOM file as the 8-bit picture that a viewer would show. Needs pydicom (extra ``dicom``).

Errors, warnings and logs never contain the value of a tag, which may name a patient, nor pydicom's own messages, which
may quote tags.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import (
    apply_color_lut,
    apply_rescale,
    apply_voi,
    apply_windowing,
    as_pixel_options,
    get_decoder,
    pixel_array,
)
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cvrnet.data.decode_apart import decode_apart
from cvrnet.data.decoder import decode
from cvrnet.data.frame_headers import FrameSize, check_frame
from cvrnet.data.limits import MAX_PIXELS, WINDOWS, Mode, Refused, in_turn

MAX_FRAMES = 10_000  #: files with more frames are refused: the longest CT volumes have some 3,000

# Modality (PS3.3 C.7.3.1.1.1). DR is not among its defined terms, but in use.
_MODALITIES = ("", "CR", "DX", "DR", "RG", "RF", "OT", "CT")
# Parts of BodyPartExamined: besides the terms of PS3.16 Annex L, files contain Spanish and vendors' own words.
_CHEST = ("CHEST", "THORA", "TORAX", "LUNG", "PULMO", "TORSO", "RIB", "WHOLEBODY", "PORTCHEST")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_CODINGS = {
    **dict.fromkeys((*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes), "jpeg"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "jpeg2000"),
    RLELossless: "rle",
}


def read_frame(path: str | os.PathLike[str], frame: int | None, mode: Mode, window: str) -> np.ndarray:
    """One frame as uint8 (H, W) or (H, W, 3); `cvrnet.data.read_image` says how its values become grey levels.

    Frames count from 1; None if the file has only one. The window is one of `WINDOWS`, or ``""`` for the file's own.

    Raises:
        Refused: The file is not a readable picture of a chest. One line with the reason, without any tag's value.
    """
    with quiet():
        header = read_header(path)
        frames = frame_count(header, path)
        _check_chest(header)
        if frame is None and frames > 1:
            raise Refused(f"{frames} frames: name one, as in {os.path.basename(path)}#1; predict takes all of them")
        if not 1 <= (frame or 1) <= frames:
            raise Refused(f"frame {frame} does not exist: expected 1 to {frames}")
        _check_decodable(header)
        with in_turn(int(header.Rows) * int(header.Columns)):
            with refuse_damaged("its pixels are damaged, truncated, or not what the tags say"):
                values = _decode(path, header, (frame or 1) - 1, frames)
            with refuse_damaged("its window, palette or rescaling is damaged"):
                picture = _picture(values, header, window)
    if picture.ndim == 2:
        return picture if mode == "L" else np.repeat(picture[..., None], 3, axis=2)
    return picture if mode == "RGB" else np.array(Image.fromarray(picture).convert("L"))


def read_header(path: str | os.PathLike[str], tags: Sequence[str] | None = None) -> Dataset:
    """These tags of a file, or all of them, without the pixels; Refused if it is damaged, or compressed as a whole."""
    with quiet(), refuse_damaged("a damaged or truncated DICOM file"):
        # dcmread inflates a deflated file into memory as a whole, whatever its size.
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise Refused("its transfer syntax is not supported: a deflated file; expected one that is not")
        return dcmread(path, defer_size=4096, specific_tags=None if tags is None else list(tags))


def tag_text(header: Dataset, name: str) -> str:
    """A tag's value as text with single spaces; ``""`` if it is missing or empty."""
    return " ".join(str(header.get(name) or "").split())


def frame_count(header: Dataset, path: str | os.PathLike[str]) -> int:
    """The number of frames that a file declares; Refused if a file of its size cannot contain them."""
    with refuse_damaged("a damaged DICOM file: it does not say how large the image is"):
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise Refused("a DICOM file without pixel data, no image")
        height, width = int(header.Rows), int(header.Columns)
        frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
        words = max(int(header.get("BitsAllocated") or 16) // 16, 1)
    if height < 1 or width < 1 or samples not in (1, 3):
        raise Refused(f"{width} x {height} pixels of {samples} samples are not possible")
    # Colour, and pixels of more than 16 bits, take as much more memory.
    if height * width > (most := MAX_PIXELS // (samples * words)):
        raise Refused(f"{width} x {height} pixels are more than the {most:,} allowed")
    if not 1 <= frames <= MAX_FRAMES:
        raise Refused(f"{frames} frames: expected 1 to {MAX_FRAMES:,}")
    least = 0
    with suppress(Exception):  # if other tags are damaged, decoding reports it
        # A compressed frame takes an item tag and a length of 8 bytes (PS3.5 A.4), and at least as much data.
        compressed = header.file_meta.TransferSyntaxUID.is_compressed
        least = 16 * frames if compressed or "PixelData" not in header else get_expected_length(header)
    if os.path.getsize(path) < least:
        raise Refused("truncated: the file is too small for the pixels that it declares")
    return frames


@contextmanager
def refuse_damaged(reason: str) -> Iterator[None]:
    """Refuse the file if pydicom or a decoder fails in the block; errors of the system pass through."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # on damaged files they raise nearly every built-in exception
        if isinstance(error, OSError) and error.strerror:
            raise
        raise Refused(f"{reason} ({type(error).__name__})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's warnings and log messages in this thread, because they may quote tags."""
    # Set permanently: catch_warnings restores the filters on exit, also those that other threads have set.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    before = getattr(_thread, "quiet", False)
    _thread.quiet = True
    try:
        yield
    finally:
        _thread.quiet = before


_thread = threading.local()
logging.getLogger("pydicom").addFilter(lambda record: not getattr(_thread, "quiet", False))


def _check_chest(header: Dataset) -> None:
    with refuse_damaged("a damaged DICOM file: modality or body part cannot be read"):
        modality, part = (tag_text(header, name).upper() for name in ("Modality", "BodyPartExamined"))
    if modality not in _MODALITIES:
        raise Refused("its tags name another modality: expected a radiograph or a CT")
    part = "".join(filter(str.isalnum, part))
    if part and ("SPINE" in part or not any(name in part for name in _CHEST)):  # such as THORACIC SPINE
        raise Refused("not a chest: its tags name another part of the body")


def _check_decodable(header: Dataset) -> None:
    try:
        available = get_decoder(header.file_meta.TransferSyntaxUID).is_available
    except (AttributeError, NotImplementedError):  # not given, or unknown to pydicom
        available = False
    if not available:
        raise Refused('its transfer syntax is not supported, or needs a decoder: pip install "cvrnet[dicom]"')


def _decode(path: str | os.PathLike[str], header: Dataset, index: int, frames: int) -> np.ndarray:
    """The stored values of one frame, counted from 0."""
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or "PixelData" not in header:
        return pixel_array(path, index=index)
    options = as_pixel_options(header, number_of_frames=1)
    element: Any = header.get_item("PixelData")
    with open(path, "rb") as file:
        file.seek(getattr(element, "value_tell", None) or element.file_tell)  # a deferred element has the first
        frame = get_frame(file, index, number_of_frames=frames, extended_offsets=options.pop("extended_offsets", None))
    size = FrameSize(*(int(options[name]) for name in ("rows", "columns", "samples_per_pixel", "bits_allocated")))
    # pylibjpeg-rle panics, and writes to stderr, on damaged run lengths; pydicom's own decoder raises an exception.
    options |= {"transfer_syntax": syntax, "decoding_plugin": "pydicom" if syntax == RLELossless else ""}
    if check_frame(frame, size, _CODINGS.get(syntax, "")):
        return decode(frame, options)
    return decode_apart(frame, options, size.rows * size.columns * size.samples)


def _picture(values: np.ndarray, header: Dataset, window: str) -> np.ndarray:
    """A frame's stored values as uint8 (H, W) or (H, W, 3)."""
    kind = str(header.PhotometricInterpretation)
    if window and (kind not in _GREY or header.get("Modality") != "CT" or "RescaleIntercept" not in header):
        raise Refused(f"the window {window!r} needs Hounsfield units: expected a CT with rescale slope and intercept")
    if kind == "PALETTE COLOR":
        colour = apply_color_lut(values, header)
        return (colour >> 8 if colour.dtype.itemsize > 1 else colour).astype(np.uint8)[..., :3]
    if values.ndim == 3:  # pixel_array has converted YBR to RGB
        factor = 255 / (2.0 ** int(header.BitsStored) - 1)
        return _by_value(values, lambda samples: samples * factor)
    if kind not in _GREY:
        raise Refused("its photometric interpretation is not supported")
    grey = _by_value(values, lambda stored: _shown(stored, header, window))
    return 255 - grey if kind == "MONOCHROME1" else grey  # its lowest value is white (PS3.3 C.7.6.3.1.2)


def _by_value(values: np.ndarray, shown: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The result of `shown` for each value, rounded to uint8."""
    if values.dtype.kind not in "iu" or values.itemsize > 2:
        return np.rint(shown(values).clip(0, 255)).astype(np.uint8)
    # Up to 16 bits, `shown` is called once for each value that occurs: its float64 results would take 8 bytes a pixel.
    # Negative values are indices from the tables' end. NumPy converts each index to 8 bytes, so this goes row by row.
    occurs = np.zeros(256**values.itemsize, bool)
    for row in values:
        occurs[row] = True
    stored = np.flatnonzero(occurs).astype(values.dtype)
    table = np.zeros(occurs.shape, np.uint8)
    table[stored] = np.rint(shown(stored).clip(0, 255)).astype(np.uint8)
    picture = np.empty(values.shape, np.uint8)
    for row, target in zip(values, picture, strict=True):
        target[...] = table[row]
    return picture


def _shown(stored: np.ndarray, header: Dataset, window: str) -> np.ndarray:
    """Values after modality and VOI transformation (PS3.3 C.11.1 and C.11.2), in 0..255."""
    values = apply_rescale(stored, header)
    if not np.isfinite(values).all():
        raise Refused("some pixel values are not finite")
    if window:
        return _windowed(values, *WINDOWS[window], "LINEAR")
    if header.get("VOILUTSequence"):  # takes precedence over a window, as in pydicom's apply_voi_lut
        descriptor = header.VOILUTSequence[0].LUTDescriptor
        depth = int(descriptor[2])
        # apply_voi takes the table's entries for bytes if the depth is 8, but LUTData is a string of 16-bit words.
        header.VOILUTSequence[0].LUTDescriptor = [*descriptor[:2], 16]
        return apply_voi(np.rint(values).astype(np.int64), header) * (255 / (2**depth - 1))
    level, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    # Linear windows of less than 1 are not valid (PS3.3 C.11.2.1.2.1).
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
    settings.BitsStored, settings.PixelRepresentation = 8, 0  # apply_windowing takes its output range, 0..255, from it
    settings.WindowCenter, settings.WindowWidth, settings.VOILUTFunction = level, width, function
    return apply_windowing(values, settings)


def _first(value: object) -> float | None:
    """The first of an element's values: a file may offer several windows."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value is None or value == "" else float(str(value))
