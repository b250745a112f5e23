"""Small files that ask for much memory or time: one line each, soon, within a limit that the system enforces."""

import csv
import io
import json
import os
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cvrnet.data import ImageError, decode_apart, read_image
from tests.support.forks import address_space

GREY = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
ROOM = 500_000_000  # bytes that this process may take to read any of the files
CHILD = 900_000_000  # and a child that decodes


def encode(format: str, pixels: np.ndarray = GREY, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def dicom(syntax: str, pixels: bytes, side: int = 64, **tags: object) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.Modality, ds.PhotometricInterpretation, ds.PixelRepresentation = "DX", "MONOCHROME2", 0
    ds.Rows, ds.Columns, ds.SamplesPerPixel = side, side, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = pixels if syntax == ExplicitVRLittleEndian else encapsulate([pixels])
    ds["PixelData"].VR = "OB"
    for name, value in tags.items():
        setattr(ds, name, value)
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def jpeg_of(side: int, scans: int = 1) -> bytes:
    content = encode("JPEG", progressive=True).replace(struct.pack(">HH", 64, 64), struct.pack(">HH", side, side), 1)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * (scans - 1) + content[-2:]


def jpeg2000_of(side: int, cod: bytes = b"", samples: int = 1, tile: int = 0) -> bytes:
    """An 8-bit codestream of 64 x 64 pixels that declares other sizes, or another coding style (A.6.1)."""
    content = bytes(encode_array(GREY, bits_stored=8))
    at = content.index(b"\xff\x52")
    siz = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile or side, tile or side, 0, 0, samples)
    style = struct.pack(">HH", 0xFF52, 2 + len(cod)) + cod if cod else content[at : at + 14]
    components = b"\7\1\1" * samples
    return (
        content[:4] + struct.pack(">H", 2 + len(siz) + len(components)) + siz + components + style + content[at + 14 :]
    )


def shared_tags(number: int) -> bytes:
    """A TIFF directory whose tags all have the whole directory for their value (TIFF 6.0, section 2)."""
    size = 12 * number
    tags = b"".join(struct.pack("<HHII", 30_000 + tag, 1, size - 40, 20) for tag in range(number))
    return struct.pack("<2sHIH", b"II", 42, 8, number) + tags + bytes(4)


def tiff(compression: int, width: int, tile: int) -> bytes:
    values = {256: width, 257: width, 258: 8, 259: compression, 262: 1, 277: 1, 322: tile, 323: tile, 324: 134, 325: 50}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(values)) + tags + bytes(4) + zlib.compress(bytes(999)).ljust(99)


def bmp(width: int, height: int, data: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024, 0, 0, 54 + 1024) + info + bytes(1024) + data


def png_with(text: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Raw profile type exif", text, zip=True)
    return encode("PNG", pnginfo=chunks)


def exif_segments(block: bytes) -> bytes:
    parts = [block[i : i + 60_000] for i in range(0, len(block), 60_000)]
    return b"".join(b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part for part in parts)


def nested(depth: int) -> bytes:
    whole = dicom(ExplicitVRLittleEndian, GREY.tobytes())
    at = whole.index(b"\x28\0\2\0US")
    return whole[:at] + (bytes.fromhex("27000110") + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff") * depth


def long_tag(kind: bytes, length: int) -> bytes:
    whole = dicom(ExplicitVRLittleEndian, GREY.tobytes())
    at = whole.index(b"\x28\0\2\0US")
    return whole[:at] + bytes.fromhex("27000110") + kind + struct.pack("<HI", 0, length) + whole[at:]


def items(number: int) -> bytes:
    whole = dicom(ExplicitVRLittleEndian, GREY.tobytes())
    at = whole.index(b"\x28\0\2\0US")
    sequence = bytes.fromhex("27000110") + b"SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\0\0\0\0" * number
    return whole[:at] + sequence + b"\xfe\xff\xdd\xe0\0\0\0\0" + whole[at:]


_PRECINCTS = bytes([1, 0, 0xFF, 0xFF, 0, 5, 0, 0, 0, 1]) + b"\x11" * 6  # 65,535 layers, precincts of 2 x 2
_LSE = struct.pack(">HHBB", 0xFFF8, 12, 4, 4) + struct.pack(">II", 60_000, 60_000)  # JPEG-LS's oversize dimensions
_SOF_LS = b"\xff\xf7\0\x0b\x08\0\x40\0\x40\1\1\x11\0"
_WEBP = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\xff\0" + b"\xff\x7f\0" + bytes(60)
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg-size.dcm": (lambda: dicom(JPEGBaseline8Bit, jpeg_of(60_000)), "the size that the tags say"),
    "jpeg-scans.dcm": (lambda: dicom(JPEGBaseline8Bit, jpeg_of(5000, 40), 5000), "more than 28 scans"),
    "jpeg-scans.jpg": (lambda: jpeg_of(5000, 40), "more than 28 scans"),
    "j2k-samples.dcm": (lambda: dicom(JPEG2000Lossless, jpeg2000_of(6000, samples=200), 6000), "200 samples"),
    "j2k-size.dcm": (lambda: dicom(JPEG2000Lossless, jpeg2000_of(60_000)), "the size that the tags say"),
    "j2k-precincts.dcm": (lambda: dicom(JPEG2000Lossless, jpeg2000_of(3000, _PRECINCTS), 3000), "damaged|memory"),
    "jls-lse.dcm": (lambda: dicom(JPEGLSLossless, b"\xff\xd8" + _SOF_LS + _LSE + b"\xff\xd9"), "damaged"),
    "rle-runs.dcm": (
        lambda: dicom(RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5_000_000),
        "damaged|memory|",
    ),
    "frames.dcm": (lambda: dicom(ExplicitVRLittleEndian, bytes(4096), NumberOfFrames=10**9), "1 to 10,000"),
    "rows.dcm": (lambda: dicom(ExplicitVRLittleEndian, bytes(4096), 6000), "too small for the pixels"),
    "nested.dcm": (lambda: nested(5000), "damaged or truncated DICOM"),
    "long-tag.dcm": (lambda: long_tag(b"OB", 2**31 - 2), "DICOM file"),
    "long-unknown-tag.dcm": (lambda: long_tag(b"UN", 2**32 - 2), "DICOM file"),
    "tags.tif": (lambda: shared_tags(20_000), "declare more bytes than the file has"),
    "tags.png": (lambda: encode("PNG", exif=b"Exif\0\0" + shared_tags(20_000)), ""),
    "text-tags.png": (lambda: png_with("\nexif\n1\n" + shared_tags(20_000).hex()), ""),
    "tags.jpg": (lambda: b"\xff\xd8" + exif_segments(shared_tags(20_000)) + encode("JPEG")[20:], "more bytes than"),
    "exif.jpg": (lambda: b"\xff\xd8" + exif_segments(bytes(60_000)) * 20 + encode("JPEG")[20:], "any camera"),
    "tiles-lzw.tif": (lambda: tiff(5, 64, 65_520), "tiles of 4,292,870,400 pixels are not possible"),
    "tiles-jpeg.tif": (lambda: tiff(7, 64, 65_520), "tiles of 4,292,870,400 pixels are not possible"),
    "big-tiff.tif": (
        lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(99),
        "declare more bytes than the file has",
    ),
    "canvas.webp": (lambda: b"RIFF" + struct.pack("<I", 90) + _WEBP, "65536 x 32768 pixels are more than"),
    "skip.bmp": (lambda: bmp(36_000_000, 1, b"\0\2\xff\xff"), "at most 65,535 per side"),
    "high.bmp": (lambda: bmp(64, -(2**31), bytes(99)), "64 x 2147483648 pixels are more than"),
    "thin.png": (lambda: encode("PNG", np.zeros((60_000, 1), np.uint8)), ""),
}


def limited(path: Path) -> tuple[str, float, int]:
    """In a forked process of limited memory: the reason why a file is not read, seconds, and the children's memory."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            used = address_space()
            resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
            start, reason = time.monotonic(), ""
            try:
                assert read_image(path).size
            except ImageError as error:
                reason = error.reason
            seconds = time.monotonic() - start
            decode_apart._end_all()
            own, peak = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            # Until a child runs its own program, its memory is counted as this process's.
            os.write(writer, json.dumps([reason, seconds, 0 if peak <= own else peak * 1024]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    reason, seconds, peak = json.loads(answer)
    return reason, seconds, peak


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce limits of memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_a_small_file_takes_little_memory_and_time(tmp_path, name):
    content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content())
    reason, seconds, peak = limited(path)
    assert any(part in reason if part else not reason for part in expected.split("|")), reason
    assert "MemoryError" not in reason
    assert "\n" not in reason
    assert seconds < 30
    assert peak < CHILD


def test_a_header_of_very_many_items_is_refused(tmp_path, monkeypatch):
    """pydicom makes an object of each, which takes 160 times as much memory."""
    monkeypatch.setattr("cvrnet.data.dicom._HeaderFile._left", 5000)
    (tmp_path / "few.dcm").write_bytes(items(500))
    assert read_image(tmp_path / "few.dcm").shape == GREY.shape
    (tmp_path / "many.dcm").write_bytes(items(6000))
    with pytest.raises(ImageError, match=r"damaged or truncated DICOM file|too many items"):
        read_image(tmp_path / "many.dcm")


def test_one_hostile_file_costs_no_other_its_answer(tmp_path, cli, run):
    for name in ("jpeg-scans.dcm", "j2k-samples.dcm", "tags.tif", "thin.png"):
        (tmp_path / name).write_bytes(FILES[name][0]())
    (tmp_path / "z.tif").write_bytes(encode("TIFF", compression="zstd"))
    status, out, err = cli("predict", run, tmp_path, "--format", "csv")
    assert status == 1
    rows = {Path(row["path"]).name: row["prediction"] for row in csv.DictReader(out.splitlines())}
    assert {name for name, prediction in rows.items() if prediction} == {"thin.png", "z.tif"}
    assert sum(line.startswith(f"Error: {tmp_path}") for line in err.splitlines()) == 3
    assert "Traceback" not in err
