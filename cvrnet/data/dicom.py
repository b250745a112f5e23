"""Read one frame of a DICOM file as the 8-bit picture that a viewer would show. Needs pydicom (extra ``dicom``).

Errors, warnings and logs never contain text from a tag, which may name a patient, but only numbers, such as the size of
the image. They also never contain pydicom's own messages, which may quote tags.
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.filereader import read_file_meta_info
from pydicom.pixels import as_pixel_options, get_decoder, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cvrnet.data.chest_names import may_be_chest
from cvrnet.data.decode_apart import decode_apart
from cvrnet.data.decoder import decode
from cvrnet.data.dicom_grey import grey_picture, keep_stored_bits
from cvrnet.data.dicom_palette import palette_picture
from cvrnet.data.frame_headers import FrameSize, check_frame
from cvrnet.data.grey import LATEST, by_value
from cvrnet.data.limits import MAX_PIXELS, Mode, Refused, in_turn
from cvrnet.files import open_regular

_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence", "SharedFunctionalGroupsSequence",
              "PerFrameFunctionalGroupsSequence")  # fmt: skip
_LONG_SEQUENCE = 2**22  # bytes; pydicom makes up to 500,000 objects from 4 MiB
MAX_FRAMES = 10_000  #: files with more frames are refused: the longest CT volumes have about 3,000

# Modality (PS3.3 C.7.3.1.1.1). DR is not among the defined terms, but files use it.
_MODALITIES = ("", "CR", "DX", "DR", "RG", "RF", "OT", "CT")
_GREY = ("MONOCHROME1", "MONOCHROME2")
# pydicom would discard unused bits as if HighBit were BitsStored - 1, so `keep_stored_bits` discards them instead.
_ALL_BITS: dict[str, Any] = {"correct_unused_bits": False}
_CODINGS = {
    **dict.fromkeys((*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes), "jpeg"),
    **dict.fromkeys(JPEG2000TransferSyntaxes, "jpeg2000"),
    RLELossless: "rle",
}


def read_frame(
    path: str | os.PathLike[str],
    frame: int | None,
    mode: Mode,
    window: str = "",
    version: int = LATEST,
    any_body_part: bool = False,
) -> np.ndarray:
    """Return one frame as uint8 (H, W) or (H, W, 3); see `cvrnet.data.read_image` for how values become grey levels.

    Frames are counted from 1; None means the only frame. The window is one of `WINDOWS`, or ``""`` for the file's
    window. ``mode`` and ``any_body_part`` are as in `read_image`, and ``version`` is its ``grey_version``.

    Raises:
        Refused: The file is not a readable picture, or not of a chest (unless ``any_body_part`` is true). The message
            is one line, without text from tags.
    """
    with quiet():
        header = read_header(path)
        frames = frame_count(header, path)
        _check_subject(header, any_body_part)
        if frame is None and frames > 1:
            name = os.path.basename(path)
            raise Refused(f"{frames} frames: choose one, as in {name}#1 (`cvrnet predict` reads all frames)")
        if not 1 <= (frame or 1) <= frames:
            raise Refused(f"frame {frame} does not exist: expected 1 to {frames}")
        _check_decodable(header)
        with refuse_damaged("its functional groups are damaged"):
            _take_functional_groups(header, (frame or 1) - 1)
        with in_turn(int(header.Rows) * int(header.Columns)):
            with refuse_damaged("its pixels are damaged, truncated, or not what the tags say"):
                values = _decode(path, header, (frame or 1) - 1, frames)
            with refuse_damaged("its window, palette or rescaling is damaged"):
                picture = _picture(values, header, window, version)
    if picture.ndim == 2:
        return picture if mode == "L" else np.repeat(picture[..., None], 3, axis=2)
    return picture if mode == "RGB" else np.array(Image.fromarray(picture).convert("L"))


def read_header(path: str | os.PathLike[str], tags: Sequence[str] | None = None) -> Dataset:
    """Return a file's tags without its pixels; ``tags`` are the names of the tags to read (None: all).

    Raises:
        Refused: The file is damaged, its header has too many items, or its transfer syntax is Deflated Explicit VR
            Little Endian.
    """
    with quiet(), refuse_damaged("a damaged or truncated DICOM file"):
        with _HeaderFile(open_regular(path).detach()) as file:
            # read_file_meta_info takes no file object, and would open a path a second time: give it a file descriptor.
            meta = read_file_meta_info(os.dup(file.fileno()))  # pyrefly: ignore[bad-argument-type]
            # dcmread inflates the whole of a deflated file into memory, without a limit.
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                raise Refused("the file is deflated, which is not supported; expected another transfer syntax")
            file.seek(0)
            header = dcmread(file, defer_size=4096, specific_tags=None if tags is None else list(tags))
        for name in _SEQUENCES:  # sequences are read later, without the limit of `_HeaderFile`
            if getattr(header.get_item(name, keep_deferred=True), "length", 0) > _LONG_SEQUENCE:
                raise Refused("its header has too many items")
        header.filename, header.fileobj_type = os.fspath(path), lambda name, _: open_regular(name)
        return header


def _take_functional_groups(header: Dataset, index: int) -> None:
    """Copy a frame's rescaling and window from the functional groups to the header, where a single-frame file has them.

    The groups (PS3.3 C.7.6.16) hold values for all frames or for each frame (PS3.3 C.7.6.16.2.9 and 10). A frame's own
    values replace the values for all frames.
    """
    for name, place in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        for group in list(header.get(name) or ())[place : place + 1]:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in group.get(macro) or ():
                    header.update(item)


class _HeaderFile(io.BufferedReader):
    """A file with a limited number of reads, because pydicom makes an object of over 1 kB from an empty 8-byte item."""

    _left = 2_000_000  # reads; one value takes 2 or 3, and one frame's tags about 200

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise Refused("its header has too many items")
        return super().read(size)


def tag_text(header: Dataset, name: str) -> str:
    """Return a tag's value as text with single spaces; ``""`` if it is missing or empty."""
    return " ".join(str(header.get(name) or "").split())


def frame_count(header: Dataset, path: str | os.PathLike[str]) -> int:
    """Return the number of frames that a file declares; raise Refused if the file is too small to contain them."""
    with refuse_damaged("a damaged DICOM file: it does not say how large the image is"):
        if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise Refused("a DICOM file without pixel data, not an image")
        height, width = int(header.Rows), int(header.Columns)
        frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
        words = max(int(header.get("BitsAllocated") or 16) // 16, 1)
    if height < 1 or width < 1 or samples not in (1, 3):
        raise Refused(
            f"{width} x {height} pixels with {samples} samples per pixel; expected at least 1 x 1, and 1 or 3 samples"
        )
    # Memory grows with the samples per pixel and with the 16-bit words per sample.
    if height * width > (most := MAX_PIXELS // (samples * words)):
        raise Refused(f"{width} x {height} pixels are more than the {most:,} allowed")
    if not 1 <= frames <= MAX_FRAMES:
        raise Refused(f"{frames} frames: expected 1 to {MAX_FRAMES:,}")
    least = 0
    with suppress(Exception):  # if other tags are damaged, decoding reports them
        # A compressed frame takes 8 bytes for its item's tag and length (PS3.5 A.4), and at least 8 bytes of data.
        compressed = header.file_meta.TransferSyntaxUID.is_compressed
        least = 16 * frames if compressed or "PixelData" not in header else get_expected_length(header)
    if os.path.getsize(path) < least:
        raise Refused("truncated: the file is too small for the pixels that it declares")
    return frames


@contextmanager
def refuse_damaged(reason: str) -> Iterator[None]:
    """Raise Refused if pydicom or a decoder fails in the block; errors of the operating system pass through."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # on damaged files, decoders raise nearly every built-in exception
        if isinstance(error, OSError) and error.strerror:
            raise
        raise Refused(f"{reason} ({type(error).__name__})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's log messages in this thread, and its warnings in all threads, because they may quote tags."""
    # The filter of warnings stays: on exit, catch_warnings would also undo the filters that other threads have set.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    before = getattr(_thread, "quiet", False)
    _thread.quiet = True
    try:
        yield
    finally:
        _thread.quiet = before


_thread = threading.local()
logging.getLogger("pydicom").addFilter(lambda record: not getattr(_thread, "quiet", False))


def _check_subject(header: Dataset, any_body_part: bool) -> None:
    with refuse_damaged("a damaged DICOM file: modality or body part cannot be read"):
        modality, part = tag_text(header, "Modality").upper(), tag_text(header, "BodyPartExamined")
    if modality not in _MODALITIES:
        raise Refused("its tags name another modality: expected a radiograph or a CT")
    if not any_body_part and not may_be_chest(part):
        raise Refused("not a chest: its tags name another part of the body; --any-body-part reads it")


def _check_decodable(header: Dataset) -> None:
    try:
        available = get_decoder(header.file_meta.TransferSyntaxUID).is_available
    except (AttributeError, NotImplementedError):  # not given, or unknown to pydicom
        available = False
    if not available:
        raise Refused('its transfer syntax is not supported, or needs a decoder: pip install "cvrnet[dicom]"')


def _decode(path: str | os.PathLike[str], header: Dataset, index: int, frames: int) -> np.ndarray:
    """Return the stored values of the frame ``index``; frames are counted from 0."""
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or "PixelData" not in header:
        with open_regular(path) as file:
            return pixel_array(file, index=index, **_ALL_BITS)
    options = as_pixel_options(header, number_of_frames=1)
    element: Any = header.get_item("PixelData", keep_deferred=True)
    with open_regular(path) as file:
        file.seek(getattr(element, "value_tell", None) or element.file_tell)  # a deferred element has value_tell
        frame = get_frame(file, index, number_of_frames=frames, extended_offsets=options.pop("extended_offsets", None))
    size = FrameSize(*(int(options[name]) for name in ("rows", "columns", "samples_per_pixel", "bits_allocated")))
    # pylibjpeg-rle panics, and writes to stderr, on damaged run lengths; pydicom's own decoder raises an exception.
    options |= {"transfer_syntax": syntax, "decoding_plugin": "pydicom" if syntax == RLELossless else "", **_ALL_BITS}
    if check_frame(frame, size, _CODINGS.get(syntax, "")):
        return decode(frame, options)
    return decode_apart(frame, options, size.rows * size.columns * size.samples)


def _picture(values: np.ndarray, header: Dataset, window: str, version: int) -> np.ndarray:
    """Return a frame's stored values as uint8 (H, W) or (H, W, 3)."""
    kind = str(header.PhotometricInterpretation)
    if window and (kind not in _GREY or header.get("Modality") != "CT" or "RescaleIntercept" not in header):
        raise Refused(f"the window {window!r} needs Hounsfield units: expected a CT with rescale slope and intercept")
    if kind in _GREY and values.ndim == 2:
        return grey_picture(values, header, window, version)
    values = keep_stored_bits(values, header)
    if kind == "PALETTE COLOR":
        return palette_picture(values, header)
    if values.ndim == 3:  # pixel_array has converted YBR to RGB
        factor = 255 / (2.0 ** int(header.BitsStored) - 1)
        return by_value(values, lambda samples, _: samples * factor)
    raise Refused("its photometric interpretation is not supported")
