"""One function that gives the 8-bit picture everything else works on.

Formats are told by content, never by the file's name, and only those of [`FORMATS`][] are tried. The size a file
declares is checked before a pixel is decoded, and without Pillow's own process-wide limit, so that threads and
programs with limits of their own are left in peace.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cvrnet.data.limits import MAX_PIXELS, MAX_SCANS, WINDOWS, Mode, Refused, check_mode, in_turn
from cvrnet.errors import UserError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".bmp")
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, ".dcm", ".dicom")
"""What an image file's name ends in, in lower case; a folder's other files are passed over."""

FORMATS = "PNG, JPEG, TIFF, WebP, BMP or DICOM"

_OPENERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),  # MPO too: a JPEG with more pictures behind the first
    (b"II*\x00", TiffImageFile),
    (b"MM\x00*", TiffImageFile),
    (b"II+\x00", TiffImageFile),  # BigTIFF
    (b"MM\x00+", TiffImageFile),
    (b"WEBP", WebPImageFile),
    (b"BM", BmpImageFile),
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

# What Pillow's readers raise on damaged files.
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageError(UserError):
    """A file that cannot be read as an image, told in one line: ``path: reason``.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: str | os.PathLike[str], mode: Mode = "L", window: str = "") -> np.ndarray:
    """The upright 8-bit picture in a PNG, JPEG, TIFF, WebP, BMP or DICOM file.

    - The EXIF orientation is applied; of several pages or frames the first is read.
    - Transparent parts lie on black. Palettes are looked up, CMYK and colour become RGB, and for ``mode="L"`` its
      luminance (ITU-R 601).
    - Integers of more than 8 bits are cut to the 8 highest bits *in use*, the smallest number of bits that holds the
      image's maximum: 12 bits stored in 16 come out as bright as the 8-bit original.
    - Floating-point pixels must lie in 0..1 (then they are multiplied by 255) or in 0..255 (then they are kept).
    - DICOM (extra ``dicom``): rescaled, then through the file's first VOI LUT or window, white and black as a viewer
      shows them (MONOCHROME1 is inverted). Without a window, 8-bit grey is kept and deeper grey goes linearly from the
      image's minimum to its maximum (padding aside). Tags that name another part of the body than the chest, or another
      modality than radiography or CT, are an error.

    Args:
        path: the file; of a DICOM file of several frames with the frame's number from 1, as in ``ct.dcm#12``.
        mode: ``"L"`` for grey or ``"RGB"`` for colour; a grey file read as RGB has three equal channels.
        window: for a CT in DICOM, one of `WINDOWS` instead of the file's own.

    Returns:
        uint8 array of shape (H, W) for ``"L"`` and (H, W, 3) for ``"RGB"``.

    Raises:
        ImageError: if the file is missing, not an image, damaged, larger than `MAX_PIXELS`, or has pixels that
            cannot be brought to 8 bits without a guess (negative, not finite, floats beyond 255, dark 16-bit colour).
    """
    check_mode(mode)
    if window and window not in WINDOWS:
        raise UserError(f"window {window!r} is not known: expected {' or '.join(WINDOWS)}")
    try:
        file_path, frame = split_frame(path)
        with open(file_path, "rb") as file:
            if is_dicom(file):
                return _read_dicom(file_path, frame, mode, window)
            if frame is not None:
                raise Refused("not a DICOM file, and so without numbered frames")
            if window:
                raise Refused(f"the window {window!r} needs Hounsfield units: expected a CT in DICOM")
            return _decode(file, mode)
    except Refused as refused:
        raise ImageError(path, str(refused)) from None
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(path, error.strerror) from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"damaged or not supported: {text}") from error


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file that is at its start has DICOM's preamble."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file in a folder is taken for an image: by its suffix, or, without a known one, as DICOM by content.

    Archives name DICOM files by numbers (``IM000012``, ``1.2.840.113``). DICOMDIR, their index, is none.
    """
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix in IMAGE_SUFFIXES:
        return not name.startswith(".")
    if (suffix and not suffix[1:].isdigit()) or name.upper().startswith("DICOMDIR") or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return is_dicom(file)
    except OSError:  # then nobody can tell, and nothing says that it is one
        return False


def split_frame(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    """A file, and the number of a frame in it: ``("ct.dcm", 12)`` of ``"ct.dcm#12"``.

    >>> split_frame("chest.png")
    ('chest.png', None)
    """
    whole = os.fspath(path)
    name, separator, number = whole.rpartition("#")
    if separator and number.isascii() and number.isdigit() and len(number) < 10 and not os.path.exists(whole):
        return name, int(number)
    return whole, None


def _read_dicom(path: str, frame: int | None, mode: Mode, window: str) -> np.ndarray:
    try:
        from cvrnet.data.dicom import read_frame
    except ModuleNotFoundError as error:
        raise Refused(f'a DICOM file, which needs {error.name}: pip install "cvrnet[dicom]"') from None
    return read_frame(path, frame, mode, window)


def _decode(file: BinaryIO, mode: Mode) -> np.ndarray:
    stored = _open(file)
    if isinstance(stored, JpegImageFile) and _count_scans(file) > MAX_SCANS:
        raise Refused(f"a JPEG of more than {MAX_SCANS} scans, which would take very long")
    width, height = stored.size
    if width * height > MAX_PIXELS:
        raise Refused(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
    with in_turn(width * height):
        return _pixels(stored, mode)


def _pixels(stored: ImageFile, mode: Mode) -> np.ndarray:
    cut_to_8 = any(";16" in str(tile) for tile in stored.tile)  # Pillow reads 16-bit colour by its high bytes
    white_is_zero = isinstance(stored, TiffImageFile) and stored.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    stored.load()
    image = _upright(stored)

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.array(image)
        grey = _to_8_bits(values)
        if white_is_zero:  # Pillow inverts these up to 8 bits only
            grey = 255 - grey
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[values == transparent] = 0
        return grey if mode == "L" else np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(image, mask=image)
        image = black
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    if cut_to_8 and 0 < pixels.max() < 128:
        raise Refused("16-bit colour that uses fewer than 16 bits is not supported: store it as grey or in 8 bits")
    return pixels


def _open(file: BinaryIO) -> ImageFile:
    start = file.read(16)
    file.seek(0)
    if not start:
        raise Refused("the file is empty")
    if start.startswith(b"RIFF"):
        start = start[8:]
    for signature, opener in _OPENERS:
        if start.startswith(signature):
            return opener(file)
    raise Refused(f"not a {FORMATS} image")


def _count_scans(file: BinaryIO) -> int:
    """How many scans a JPEG has; each may be a few bytes, and takes as long as all its pixels."""
    file.seek(0)
    return sum(part.count(b"\xff\xda") for part in iter(lambda: file.read(2**20), b""))


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose, which also writes the EXIF block anew and fails where that is not quite regular.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except SyntaxError:  # the block is no EXIF at all: then it states no orientation either
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of any type as uint8.

    >>> _to_8_bits(np.array([[0, 2048, 4080]], dtype=np.uint16))
    array([[  0, 128, 255]], dtype=uint8)
    >>> _to_8_bits(np.array([[0, 0.5, 1]], dtype=np.float32))
    array([[  0, 128, 255]], dtype=uint8)
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise Refused("some pixel values are not finite")
        if low < 0 or high > 255:
            raise Refused(f"pixel values go from {low:g} to {high:g}: floats must lie in 0..1 or 0..255")
        return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)
    if low < 0:
        raise Refused(f"pixel values go from {low} to {high}: they must not be negative")
    return (values >> max(int(high).bit_length() - 8, 0)).astype(np.uint8)
