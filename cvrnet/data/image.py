"""Read any supported image file as an 8-bit picture.

NIfTI files are recognised by their names (`is_nifti`), all other formats by the file's content. Besides NIfTI, only the
formats of `FORMATS` are tried. The size that a file declares is checked before a pixel is decoded. Pillow's own size
limit is a setting of the calling program, and is not changed.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cvrnet.data.decode_apart import decode_apart
from cvrnet.data.grey import LATEST, bits_in_use, robust_ends, to_8_bits
from cvrnet.data.limits import WINDOWS, Mode, Refused, check_mode, check_scans, check_size, in_turn
from cvrnet.data.nifti_files import is_nifti, nifti_module
from cvrnet.data.picture_headers import check_directory, check_exif, check_jpeg_exif, webp_size
from cvrnet.errors import UserError
from cvrnet.files import open_regular
from cvrnet.text import printable

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".bmp")
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, ".dcm", ".dicom")
"""Endings of image files' names, in lower case. In a folder, files with other endings are images only if their content
is DICOM."""

FORMATS = "PNG, JPEG, TIFF, WebP, BMP or DICOM"

_OPENERS: tuple[tuple[bytes | tuple[bytes, ...], type[ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"\xff\xd8\xff", JpegImageFile),  # also MPO: a JPEG followed by more pictures
    ((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), TiffImageFile),  # with a plus sign: BigTIFF
    (b"WEBP", WebPImageFile),
    (b"BM", BmpImageFile),
)

_TILE, _LARGEST_TILE = (322, 323), 2**24  # TileWidth, TileLength (TIFF 6.0, section 15)
# TIFF compressions whose decoders need no more memory than a strip or tile. Other compressions, such as JPEG, have no
# known bound.
_IN_BOUNDED_MEMORY = (
    *("raw", "tiff_raw_16", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"),
    *("tiff_ccitt", "group3", "group4"),
)

# EXIF orientation (Exif 2.32, tag 274) -> the operation that makes the image upright; orientation 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(UserError):
    """The error for a file that cannot be read as an image. Its text is one line: ``path: reason``."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)  #: the file
        self.reason = reason  #: what is wrong with it, without the path

    def __str__(self) -> str:
        return f"{printable(str(self.path))}: {self.reason}"


def read_image(
    path: str | os.PathLike[str],
    mode: Mode = "L",
    window: str = "",
    *,
    grey_version: int = LATEST,
    any_body_part: bool = False,
) -> np.ndarray:
    """Read a PNG, JPEG, TIFF, WebP, BMP or DICOM file, or one slice of a CT in NIfTI, as an upright 8-bit picture.

    - The EXIF orientation is applied. If a file has several pages, the first page is read.
    - Transparent parts become black. Palette colours and CMYK become RGB; ``mode="L"`` takes the luminance of colours
      (ITU-R 601).
    - Integers of more than 8 bits keep the 8 highest bits *in use*: an image of 12 bits stored in 16 becomes as bright
      as the same image in 8 bits. The 0.5 % of the pixels with the highest values do not count
      (`cvrnet.data.grey.by_bits_in_use`).
    - Floating-point pixels must lie in 0..1 (they are multiplied by 255) or in 0..255 (they are kept). The 0.5 % of the
      pixels with the highest values do not affect this choice.
    - DICOM (extra ``dicom``): the values are rescaled, then go through the file's first usable VOI LUT or window;
      MONOCHROME1 is inverted. Without a usable LUT or window, 8-bit grey is kept, and grey of more bits is
      stretched: the lowest value becomes 0, the highest 255. For this, padding and the most extreme 0.5 % of the pixels
      at each end do not count. Tags that name a part of the body other than the chest, or a modality other than
      radiography or CT, are an error.

    Args:
        path: the file. For a DICOM or NIfTI file of several frames, add the frame's number (the first is 1):
            ``ct.dcm#12``.
        mode: ``"L"`` for grey or ``"RGB"`` for colour; a grey file read as RGB has three equal channels.
        window: for a CT, ``"lung"`` or ``"soft-tissue"``. By default, a DICOM file is shown in its own window, and a
            NIfTI file in the lung window.
        grey_version: how grey of more than 8 bits becomes 8 bits (`cvrnet.data.grey.VERSIONS`). In version 1, which old
            models need, the extreme pixels count, too.
        any_body_part: read DICOM files of any part of the body.

    Returns:
        uint8 array of shape (H, W) for ``"L"`` and (H, W, 3) for ``"RGB"``.

    Raises:
        ImageError: the file is missing, not an image, damaged, or larger than `MAX_PIXELS`; the frame or window is not
            possible for this file; or pixels cannot be converted to 8 bits without a guess (negative, not finite,
            floats over 255, or 16-bit colour that uses fewer bits).
        UserError: unknown mode or window.
    """
    check_mode(mode)
    if window and window not in WINDOWS:
        raise UserError(f"window {window!r} is not known: expected {' or '.join(WINDOWS)}")
    try:
        file_path, frame = split_frame(path)
        if is_nifti(file_path):
            return nifti_module().read_slice(file_path, frame, mode, window)
        with open_regular(file_path) as file:
            if is_dicom(file):
                return dicom_module().read_frame(file_path, frame, mode, window, grey_version, any_body_part)
            if frame is not None:
                raise Refused(f"it has no frame #{frame}, because it is not a DICOM or NIfTI file")
            if window:
                raise Refused(f"the window {window!r} needs Hounsfield units: expected a CT in DICOM or NIfTI")
            return read_picture(file, mode, grey_version)
    except Refused as refused:
        raise ImageError(path, str(refused)) from None
    except Exception as error:  # on damaged files, Pillow's readers raise nearly every built-in exception
        text = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, getattr(error, "strerror", None) or f"damaged or not supported: {text}") from error


def is_dicom(file: BinaryIO) -> bool:
    """Return whether a file starts with DICOM's preamble (PS3.10 7.1); the file position must be 0, and stays 0."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def is_dicom_file(path: str | os.PathLike[str]) -> bool:
    """Like `is_dicom`, but for a path; False for a file that cannot be opened."""
    try:
        with open_regular(path) as file:
            return is_dicom(file)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return False


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file in a folder is an image: by the ending of its name, or because its content is DICOM.

    Archives name DICOM files in many ways (``IM000012``, ``1.2.840.113``, ``IM-0001.IMA``), so files with other endings
    are opened to look at their content. DICOMDIR, the index of an archive, is not an image.
    """
    name = os.path.basename(path)
    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
        return True
    return not name.upper().startswith("DICOMDIR") and is_dicom_file(path)


def split_frame(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    """Split ``"ct.dcm#12"`` into file and frame, ``("ct.dcm", 12)``; ``"ct.dcm"`` gives ``("ct.dcm", None)``.

    If a file named ``ct.dcm#12`` exists, this name is not split.
    """
    whole = os.fspath(path)
    name, separator, number = whole.rpartition("#")
    if separator and number.isascii() and number.isdigit() and len(number) < 10 and not os.path.exists(whole):
        return name, int(number)
    return whole, None


def dicom_module() -> ModuleType:
    """Return the module `cvrnet.data.dicom`; raise Refused if pydicom is not installed (extra ``dicom``)."""
    try:
        return import_module("cvrnet.data.dicom")
    except ModuleNotFoundError as error:
        raise Refused(f'a DICOM file, which needs {error.name}: pip install "cvrnet[dicom]"') from None


def read_picture(file: BinaryIO, mode: Mode, grey_version: int = LATEST) -> np.ndarray:
    """Like `read_image`, but for an open PNG, JPEG, TIFF, WebP or BMP file; raises Refused or Pillow's exceptions."""
    stored = open_picture(file)
    with in_turn(math.prod(stored.size)):
        return _pixels(stored, mode, grey_version)


def open_picture(file: BinaryIO) -> ImageFile:
    """Open a PNG, JPEG, TIFF, WebP or BMP file, and check its size; raises Refused or Pillow's exceptions."""
    stored = open_header(file)
    if isinstance(stored, JpegImageFile):
        file.seek(0)
        scans = sum(part.count(b"\xff\xda") for part in iter(lambda: file.read(2**20), b""))  # the marker SOS
        check_scans(scans, math.prod(stored.size))
    return stored


def open_header(file: BinaryIO) -> ImageFile:
    """Like `open_picture`, but for a picture that will not be decoded: only the start of a JPEG file is read."""
    start = file.read(32)
    file.seek(0)
    if not start:
        raise Refused("the file is empty")
    if start.startswith(b"RIFF"):  # a container: its size and the format of its content follow
        start = start[8:]
    opener = next((opener for signature, opener in _OPENERS if start.startswith(signature)), None)
    if opener is None:
        raise Refused(f"not a {FORMATS} image")
    if opener is WebPImageFile:
        check_size(*webp_size(start[4:]))  # before the opener allocates the whole picture
    elif opener is TiffImageFile:
        check_directory(file)
    elif opener is JpegImageFile:
        check_jpeg_exif(file)
    stored = opener(file)
    check_size(*stored.size)
    if isinstance(stored, TiffImageFile):
        tile = math.prod(stored.tag_v2.get(tag, 0) for tag in _TILE)
        if tile > max(math.prod(side + 16 for side in stored.size), _LARGEST_TILE):
            raise Refused(f"tiles of {tile:,} pixels are not possible: expected at most {_LARGEST_TILE:,}")
    return stored


def _pixels(stored: ImageFile, mode: Mode, version: int) -> np.ndarray:
    cut_to_8 = any(";16" in str(tile) for tile in stored.tile)  # Pillow keeps only the high bytes of 16-bit colour
    white_is_zero = isinstance(stored, TiffImageFile) and stored.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    image = _upright(_loaded(stored))

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.array(image)
        grey = to_8_bits(values, version)
        if white_is_zero:  # Pillow inverts such pictures only up to 8 bits
            grey = 255 - grey
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[values == transparent] = 0
        return grey if mode == "L" else np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        # An RGBA image is not converted, because the conversion would copy it, which takes memory.
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size)
        image.paste(layer, mask=layer)
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    if cut_to_8 and 0 < robust_ends(pixels, None)[1] < 128:  # the few brightest pixels do not count
        raise Refused("16-bit colour that uses fewer than 16 bits is not supported: store it as grey or in 8 bits")
    return pixels


def _loaded(stored: ImageFile) -> ImageFile:
    if isinstance(stored, TiffImageFile) and stored.info.get("compression") not in _IN_BOUNDED_MEMORY:
        assert stored.fp
        stored.fp.seek(0)
        samples = math.prod(stored.size) * len(stored.getbands())
        stored = TiffImageFile(BytesIO(decode_apart(stored.fp.read(), {}, samples).tobytes()))
    stored.load()
    return stored


def depth_in_use(stored: ImageFile) -> int:
    """Return `bits_in_use` of an opened PNG or TIFF file with grey values of more than 8 bits; 0 for other files."""
    if not stored.mode.startswith("I"):
        return 0
    with in_turn(math.prod(stored.size)):
        return bits_in_use(np.array(_loaded(stored)))


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose would also write the EXIF block again, which fails if the block is slightly irregular.
    try:
        check_exif(image.info)
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, Refused):  # not EXIF: the image has no orientation
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
