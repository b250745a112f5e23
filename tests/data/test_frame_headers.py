"""Compressed frames of DICOM: what they declare is read by their own markers, before a decoder gets them."""

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.uid import RLELossless

from cvrnet.data.frame_headers import FrameSize, check_frame
from cvrnet.data.limits import Refused

GREY = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
SIZE = FrameSize(48, 64, 1, 8)
SIZED = struct.pack(">HH", 48, 64)
HUGE = struct.pack(">HH", 60_000, 60_000)


def jpeg(pixels: np.ndarray = GREY, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def frame_header(marker: int, size: bytes, samples: int = 1, bits: int = 8) -> bytes:
    parts = b"\1\x11\0" * samples
    return struct.pack(">BBHB", 0xFF, marker, 8 + len(parts), bits) + size + bytes([samples]) + parts


def jpeg2000(rows: int = 48, columns: int = 64, samples: int = 1, bits: int = 8, tile: int = 64) -> bytes:
    """The start of a codestream (ISO/IEC 15444-1 A.5.1)."""
    siz = struct.pack(">HHIIIIIIIIH", 38 + 3 * samples, 0, columns, rows, 0, 0, tile, tile, 0, 0, samples)
    return b"\xff\x4f\xff\x51" + siz + bytes([bits - 1, 1, 1]) * samples


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(*boxes: bytes) -> bytes:
    return b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + b"".join(boxes)


def refused(frame: bytes, coding: str, size: FrameSize = SIZE) -> str:
    with pytest.raises(Refused) as error:
        check_frame(frame, size, coding)
    return str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_every_frame_that_pydicom_decodes_agrees_with_its_tags():
    agreed = 0
    for path in (Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"):
        ds = dcmread(path, force=True)
        syntax = ds.file_meta.get("TransferSyntaxUID") if "file_meta" in ds.__dict__ else None
        if not syntax or not syntax.is_compressed or syntax.is_deflated or "PixelData" not in ds:
            continue
        coding = "rle" if syntax == RLELossless else "jpeg" if int(syntax.split(".")[-1]) < 90 else "jpeg2000"
        size = FrameSize(ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated)
        try:
            frame = get_frame(ds.PixelData, 0, number_of_frames=int(ds.get("NumberOfFrames", 1)))
            check_frame(frame, size, coding)
            agreed += 1
        except Exception:  # noqa: BLE001
            with pytest.raises(Exception):  # noqa: B017, PT011
                assert ds.pixel_array.size, path
    assert agreed >= 20


def test_what_any_decoder_reads_in_bounded_memory_is_ordinary():
    assert check_frame(jpeg(), SIZE, "jpeg")
    assert check_frame(jpeg() + b"\0", SIZE, "jpeg")  # padding to an even length
    assert check_frame(jpeg(np.dstack([GREY] * 3)), SIZE._replace(samples=3), "jpeg")
    assert not check_frame(jpeg(progressive=True), SIZE, "jpeg")
    assert not check_frame(jpeg2000(), SIZE, "jpeg2000")
    assert not check_frame(b"anything", SIZE, "")
    assert check_frame(bytes(64) + bytes(1000), SIZE, "rle")
    assert not check_frame(bytes(64) + bytes(5_000_000), SIZE, "rle")  # up to 320 MB of values
    large = FrameSize(5000, 5000, 1, 8)
    assert not check_frame(jpeg(np.zeros((5000, 5000), np.uint8)), large, "jpeg")


@pytest.mark.parametrize("junk", [b"\xff\xeb\0\4JP", b"\xff\xdc\0\4\0\x30", b"\xff\xf8\0\4\1\1", b"xy", b"\xff\xd8"])
def test_uncommon_segments_are_not_ordinary(junk):
    """JPEG XT's boxes, DNL, LSE, bytes between segments, a second image."""
    assert not check_frame(jpeg()[:2] + junk + jpeg()[2:], SIZE, "jpeg")


def test_reserved_markers_in_the_data_of_a_scan_are_not_ordinary():
    assert not check_frame(jpeg()[:-2] + b"\xff\x02\0\4ab" + jpeg()[-2:], SIZE, "jpeg")


def test_a_size_in_a_comment_does_not_count():
    for comment in (jpeg2000(), frame_header(0xC0, SIZED)):
        segment = b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment
        huge = jpeg().replace(SIZED, HUGE)
        assert refused(huge[:2] + segment + huge[2:], "jpeg") == (
            "the compressed image does not have the size that the tags say"
        )
        assert check_frame(jpeg()[:2] + segment + jpeg()[2:], SIZE, "jpeg")


@pytest.mark.parametrize("marker", [0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCB, 0xDE, 0xF7])
@pytest.mark.parametrize(
    "before", [b"", b"\xff\xff", b"zz", frame_header(0xC0, SIZED), b"\xff\xda\0\2zz\xff\xd0\xff\0"]
)
def test_every_frame_header_of_a_jpeg_must_agree(marker, before):
    frame = b"\xff\xd8" + before + frame_header(marker, HUGE) + jpeg()[2:]
    assert "does not have the size" in refused(frame, "jpeg")
    frame = b"\xff\xd8" + before + frame_header(marker, SIZED, samples=200) + jpeg()[2:]
    assert refused(frame, "jpeg") == "the compressed image has 200 samples per pixel: the tags say 1"
    frame = b"\xff\xd8" + before + frame_header(marker, SIZED, bits=16) + jpeg()[2:]
    assert refused(frame, "jpeg") == "the compressed image has 16 bits per sample: the tags say at most 8"


def test_scans_are_counted_by_their_markers():
    usual = jpeg(progressive=True)
    start = usual.rindex(b"\xff\xda")
    scan = usual[start:-2]
    thumbnail = b"\xff\xe1\1\0" + (b"\xff\xda" * 150)[:254]
    assert not check_frame(usual[:2] + thumbnail + usual[2:], SIZE, "jpeg")
    more = usual[:-2] + scan * (100 - usual.count(b"\xff\xda"))
    assert not check_frame(more + b"\xff\xd9", SIZE, "jpeg")
    assert "more than 100 scans" in refused(more + scan + b"\xff\xd9", "jpeg")
    large = FrameSize(6000, 6000, 1, 8)  # twenty times the most pixels
    assert "more than 20 scans" in refused(more.replace(SIZED, struct.pack(">HH", 6000, 6000)), "jpeg", large)


@pytest.mark.parametrize(
    "frame",
    [
        jpeg2000(rows=60_000, columns=60_000),
        jp2(box(b"free", jpeg2000()), box(b"jp2c", jpeg2000(rows=60_000))),
        jp2(box(b"jp2h", box(b"ihdr", b"")), struct.pack(">I4sQ", 1, b"free", 20) + b"\0" * 4)
        + box(b"jp2c", jpeg2000(columns=60_000)),
        jp2(struct.pack(">I4s", 0, b"jp2c") + jpeg2000(rows=1)),
    ],
)
def test_the_size_of_a_jpeg_2000_is_that_of_its_codestream(frame):
    assert "does not have the size" in refused(frame, "jpeg2000")


def test_samples_bits_and_sampling_of_jpeg_2000():
    assert not check_frame(jp2(box(b"free", jpeg2000(rows=9)), box(b"jp2c", jpeg2000())), SIZE, "jpeg2000")
    assert refused(jpeg2000(samples=200), "jpeg2000").endswith(" has 200 samples per pixel: the tags say 1")
    assert refused(jpeg2000(samples=0), "jpeg2000").endswith(" has 0 samples per pixel: the tags say 1")
    assert refused(jpeg2000(bits=38), "jpeg2000").endswith(" has 38 bits per sample: the tags say at most 8")
    assert "it has a component with impossible sampling" in refused(jpeg2000()[:-1] + b"\0", "jpeg2000")
    assert "it has tiles of width or height 0" in refused(jpeg2000(tile=0), "jpeg2000")
    assert "it has a box that is too small" in refused(jp2(struct.pack(">I4s", 3, b"free")), "jpeg2000")


def test_a_frame_of_another_coding_is_refused():
    assert refused(jpeg2000(), "jpeg") == "the compressed image is not JPEG, although its transfer syntax says so"
    assert refused(jpeg(), "jpeg2000") == "the compressed image is not JPEG 2000, although its transfer syntax says so"
    assert refused(jpeg()[:20], "jpeg") == "the compressed image does not say how large it is"
    assert refused(jpeg2000()[:30], "jpeg2000") == "the compressed image is damaged: its header is cut off"


@given(start=st.sampled_from([jpeg(), jpeg2000(), jp2(box(b"jp2c", jpeg2000()))]), data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_checked_or_refused(start, data):
    content = bytearray(start)
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for coding in ("jpeg", "jpeg2000", "rle"):
        with suppress(Refused):
            assert check_frame(bytes(content[: data.draw(st.integers(0, len(content)))]), SIZE, coding) in (True, False)
