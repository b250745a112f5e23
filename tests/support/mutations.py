"""Small valid files of every kind that cvrnet reads, and functions that damage them with a seeded generator."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pydicom
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

GREY = (np.add.outer(np.arange(24), 2 * np.arange(20)) + np.eye(24, 20) * 90).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])


def pictures() -> dict[str, bytes]:
    """Return valid image files: name -> content."""
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    alpha = Image.fromarray(np.dstack([COLOUR, GREY]))
    deep = Image.fromarray(GREY.astype(np.uint16) * 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    several: dict[str, Any] = {"save_all": True, "append_images": [colour, colour]}
    files = {
        "grey.png": _encode(grey, "PNG"),
        "colour.png": _encode(colour, "PNG", exif=exif),
        "alpha.png": _encode(alpha, "PNG"),
        "palette.png": _encode(colour.quantize(8), "PNG", transparency=3),
        "deep.png": _encode(deep, "PNG"),
        "bits.png": _encode(Image.fromarray(GREY > 100), "PNG"),
        "text.png": _encode(grey, "PNG", pnginfo=_text()),
        "colour.jpg": _encode(colour, "JPEG", exif=exif),
        "progressive.jpg": _encode(colour, "JPEG", progressive=True),
        "cmyk.jpg": _encode(colour.convert("CMYK"), "JPEG"),
        "several.mpo": _encode(colour, "MPO", **several),
        "plain.tif": _encode(colour, "TIFF", exif=exif),
        "lzw.tif": _encode(colour, "TIFF", compression="tiff_lzw"),
        "deflate.tif": _encode(deep, "TIFF", compression="tiff_deflate"),
        "jpeg.tif": _encode(colour, "TIFF", compression="jpeg"),
        "fax.tif": _encode(Image.fromarray(GREY > 100), "TIFF", compression="group4"),
        "float.tif": _encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        "pages.tif": _encode(colour, "TIFF", **several),
        "big.tif": _encode(grey, "TIFF", big_tiff=True),
        "grey.bmp": _encode(grey, "BMP"),
        "colour.bmp": _encode(colour, "BMP"),
        "lossy.webp": _encode(colour, "WEBP", exif=exif),
        "lossless.webp": _encode(alpha, "WEBP", lossless=True),
        "moving.webp": _encode(colour, "WEBP", **several),
        "moving.gif": _encode(colour, "GIF", **several),
    }
    pixels = GREY.astype(np.uint16) * 16
    files |= {
        "plain.dcm": dicom(pixels, WindowCenter=1000, WindowWidth=900),
        "frames.dcm": dicom(np.stack([pixels] * 3), Modality="CT", RescaleSlope=1, RescaleIntercept=-1024),
        "rle.dcm": dicom(pixels, RLELossless),
    }
    for name in (
        "JPEG-lossy",
        "SC_rgb_jpeg_dcmtk",
        "examples_palette",
        "SC_rgb_rle_2frame",
        "MR_small_jpeg_ls_lossless",
        "MR_small_jp2klossless",
    ):
        ds = pydicom.dcmread(get_testdata_file(f"{name}.dcm"))
        ds.Modality, ds.BodyPartExamined = "DX", "CHEST"
        files[f"{name}.dcm"] = _saved(ds)
    return files


def dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """Return a DICOM file of a grey image, (H, W), or of frames, (frames, H, W)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "DX", "MONOCHROME2", 1
    ds.PatientID = "p1"
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax)
    return _saved(ds)


def png(width: int, height: int, bits: int, colour: int, samples: int, *, pixels: bool = True) -> bytes:
    """Return a black PNG file, a thousandth of its unpacked size; without ``pixels``, only the header has the size."""
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    row = bytes(1 + (width * bits * samples + 7) // 8)
    squeeze = zlib.compressobj(1)
    parts = [squeeze.compress(row) for _ in range(height if pixels else 0)]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", b"".join([*parts, squeeze.flush()])), (b"IEND", b"")):
        PngImagePlugin.putchunk(file, kind, content)
    return file.getvalue()


def bombs() -> dict[str, Callable[[], bytes]]:
    """Return what makes small files that declare very large content; they must be refused, or read in little memory."""
    tiny = Image.new("L", (4, 4))
    many: dict[str, Any] = {"save_all": True, "append_images": [Image.new("L", (4, 4), i % 255) for i in range(2000)]}
    grey = np.zeros((8, 8), np.uint16)
    largest = (6_000, 6_000)
    return {
        "claims-60000.png": lambda: png(60_000, 60_000, 8, 0, 1, pixels=False),
        "claims-60000.tif": _claiming_tiff,
        "claims-60000.dcm": lambda: dicom(grey, Rows=60_000, Columns=60_000),
        "packed-60000-rows.png": lambda: png(590, 60_000, 16, 6, 4),
        "largest-rgba16.png": lambda: png(*largest, 16, 6, 4),
        "largest-grey16.png": lambda: png(*largest, 16, 0, 1),
        "largest.webp": lambda: _encode(Image.new("RGBA", largest), "WEBP", lossless=True, quality=0, method=0),
        "largest.jpg": lambda: _encode(Image.new("CMYK", largest), "JPEG"),
        "largest-float.tif": lambda: _encode(Image.new("F", largest), "TIFF", compression="tiff_deflate"),
        "largest.dcm": lambda: _jpeg_dicom(largest),
        "many-text.png": _long_text,
        "many-frames.gif": lambda: _gif(2000),
        "many-frames.tif": lambda: _frames(_encode(tiny, "TIFF"), 2000),
        "many-frames.webp": lambda: _encode(tiny, "WEBP", **many),
        "tags-that-share-bytes.tif": lambda: _shared_tags(20_000),
        "many-frames.dcm": lambda: dicom(np.stack([grey] * 2)).replace(b"IS\x02\x002 ", b"IS\x0a\x002147483647", 1),
    }


def _claiming_tiff() -> bytes:
    tiff = _encode(Image.new("L", (60, 40)), "TIFF").replace(struct.pack("<I", 60), struct.pack("<I", 60_000), 1)
    return tiff.replace(struct.pack("<I", 40), struct.pack("<I", 60_000), 1)


def _long_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2_000_000, zip=True)
    return _encode(Image.new("L", (4, 4)), "PNG", pnginfo=text)


def _frames(tiff: bytes, number: int) -> bytes:
    """Repeat the frame of a TIFF file; Pillow's time to write this grows with the square of the number."""
    (at,) = struct.unpack_from("<I", tiff, 4)
    (tags,) = struct.unpack_from("<H", tiff, at)
    frame = tiff[at : at + 2 + 12 * tags]  # its values are those of the first frame, by their place in the file
    starts = range(len(tiff), len(tiff) + number * (len(frame) + 4), len(frame) + 4)
    head = tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:]
    return head + b"".join(frame + struct.pack("<I", following) for following in [*starts[1:], 0])


def _gif(frames: int) -> bytes:
    """A GIF file that repeats one frame; Pillow's time to write different ones is thirty times that to read them."""
    gif = _encode(Image.new("L", (4, 4)), "GIF")
    head = 13 + 3 * 2 ** ((gif[10] & 7) + 1)  # with the table of colours
    return gif[:head] + gif[head:-1] * frames + gif[-1:]


def _shared_tags(number: int) -> bytes:
    tags = b"".join(struct.pack("<HHII", 30_000 + tag, 1, 12 * number - 40, 20) for tag in range(number))
    return struct.pack("<2sHIH", b"II", 42, 8, number) + tags + bytes(4)


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a copy with one to eight damaged parts: cut off, overwritten, removed, doubled, moved, or replaced."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 5, 8])):
        if len(data) < 4:
            break
        # Half of the injuries go to the first bytes, where sizes and offsets are.
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 400))
        kind = rng.randrange(9)
        length = min(rng.choice([1, 2, 4, 16, 64, 300]), len(data) - at)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at] = rng.choice([0, 1, 127, 128, 254, 255, rng.randrange(256)])
        elif kind == 3:
            number = rng.choice([0, 1, 65535, 2**31 - 1, 2**32 - 1, 60_000, rng.randrange(2**32)])
            packed = struct.pack(rng.choice("<>") + "I", number)
            data[at : at + 4] = packed[: rng.choice([2, 4, 4])]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length] * rng.choice([1, 2, 50])
        elif kind == 6:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 7:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        else:
            to = rng.randrange(len(data))
            piece = data[at : at + length]
            del data[at : at + length]
            data[to:to] = piece
    return bytes(data)


_TEXTS = [
    "",
    " ",
    "\0",
    "\ufeff",
    "é",
    "NaN",
    "inf",
    "-1",
    "1e999",
    "0",
    "x" * 200_000,
    '"',
    ",",
    ";",
    "\t",
    "\r",
    "../..",
    "\u202e",
]


def mutate_table(text: str, rng: random.Random) -> bytes:
    """Return a CSV file with damaged cells, rows, delimiters, quotes or encoding."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(rng.choice([1, 1, 2, 4])):
        row = rng.choice(rows)
        kind = rng.randrange(7)
        if kind < 3:
            row[rng.randrange(len(row))] = rng.choice(_TEXTS)
        elif kind == 3:
            row.insert(rng.randrange(len(row) + 1), rng.choice(_TEXTS))
        elif kind == 4 and len(row) > 1:
            del row[rng.randrange(len(row))]
        elif kind == 5 and len(rows) > 1:
            rows.remove(row)
        else:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
    delimiter = rng.choice([","] * 6 + [";", "\t", "|"])
    spoilt = rng.choice(["\n"] * 6 + ["\r\n", "\r"]).join(delimiter.join(row) for row in rows) + "\n"
    encoding = rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
    data = spoilt.encode(encoding, "replace")
    return mutate(data, rng, [data]) if rng.random() < 0.3 else data


_VALUES: list[Any] = [None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", [], {}, [[]], {"x": 1}]
_VALUES += ["x" * 100_000, "../../etc", "\0", [1] * 1000, "resnet18", 2**31]


def mutate_json(text: str, rng: random.Random) -> bytes:
    """Return a JSON file with values of other types, with missing or new keys, or with damaged bytes."""
    value = json.loads(text)
    kind = rng.random()
    if kind < 0.25:
        return mutate(text.encode(), rng, [text.encode()])
    if kind < 0.3:
        return (b"[" * 100_000) if rng.random() < 0.5 else b'{"a":' * 100_000
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            break
        holder, key = rng.choice(places)
        what = rng.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "num_classes", "kind"])] = rng.choice(_VALUES)
        else:
            holder[key] = rng.choice(_VALUES)
    return json.dumps([value] if kind < 0.33 else value).encode()


def _places(value: object) -> Any:
    """Every container in a JSON value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, Mapping) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def _jpeg_dicom(size: tuple[int, int]) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(dicom(np.zeros((2, 2), np.uint16), WindowCenter=9, WindowWidth=9)))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.Rows, ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = encapsulate([_encode(Image.new("L", size[::-1]), "JPEG")])
    return _saved(ds)


def _text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "é" * 300, zip=True)
    info.add_itxt("Title", "ü", "de", "Titel")
    return info


def _saved(ds: Dataset) -> bytes:
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
