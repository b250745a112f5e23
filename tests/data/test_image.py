"""Reading: the same picture from every format, and one line for every file that is none."""

import contextlib
import io
import os
import random
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from cvrnet.data import ImageError, read_image
from cvrnet.data.image import PICTURE_SUFFIXES
from cvrnet.errors import UserError
from cvrnet.text import printable
from tests.support.privileges import permissions_hold

GREY = (np.add.outer(np.arange(40), 2 * np.arange(60)) + np.eye(40, 60) * 90).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T.reshape(40, 60), 255 - GREY], axis=2)


def encoded(pixels: np.ndarray | Image.Image, format: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def decoded(tmp_path, content: bytes, mode: str = "L", name: str = "image.bin") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    pixels = read_image(tmp_path / name, mode)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    return pixels


def refused(path, mode: str = "L") -> str:
    """The reason of the ImageError, whose text must be one line."""
    with pytest.raises(ImageError) as error:
        read_image(path, mode)
    assert str(error.value) == f"{printable(str(path))}: {error.value.reason}"
    assert "\n" not in str(error.value)
    assert isinstance(error.value, UserError)
    return error.value.reason


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_formats_give_the_pixels(tmp_path, format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY, format, **options)), GREY)
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY, format, **options), "RGB"), np.dstack([GREY] * 3))
    np.testing.assert_array_equal(decoded(tmp_path, encoded(COLOUR, format, **options), "RGB"), COLOUR)


@settings(max_examples=120, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    bits=st.integers(1, 16),
    colour=st.booleans(),
    format=st.sampled_from(["PNG", "TIFF", "BMP", "WEBP"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_size_and_depth_comes_back(tmp_path_factory, height, width, bits, colour, format, seed):
    """Grey of any depth, by its 8 highest bits in use, and colour of 8 bits."""
    rng = np.random.default_rng(seed)
    options = {"lossless": True} if format == "WEBP" else {}
    if colour or bits <= 8 or format in ("BMP", "WEBP"):
        shape = (height, width, 3) if colour else (height, width)
        pixels = rng.integers(0, 2 ** min(bits, 8), shape).astype(np.uint8)
        expected = pixels
    else:
        pixels = rng.integers(0, 2**bits, (height, width)).astype(np.uint16)
        pixels[0, 0] = 2**bits - 1
        expected = (pixels >> (bits - 8)).astype(np.uint8)
    grey = expected.ndim == 2
    found = decoded(tmp_path_factory.getbasetemp(), encoded(pixels, format, **options), "L" if grey else "RGB")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_near_the_pixels(tmp_path, options):
    smooth = np.add.outer(np.arange(40), 2 * np.arange(60)).astype(np.uint8)
    assert np.abs(decoded(tmp_path, encoded(smooth, "JPEG", quality=95, **options)).astype(int) - smooth).max() < 8
    inverted = encoded(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decoded(tmp_path, inverted).astype(int) - smooth).max() < 8


def test_colour_becomes_its_luminance(tmp_path):
    expected = COLOUR @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(decoded(tmp_path, encoded(COLOUR, "PNG")) - expected).max() < 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a", "a b é.tif"])
def test_the_format_is_told_by_content(tmp_path, name):
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY, "PNG"), name=name), GREY)


def test_one_bit_and_palette(tmp_path):
    bits = GREY > 100
    for format in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decoded(tmp_path, encoded(Image.fromarray(bits), format)), bits * np.uint8(255))
    palette = Image.fromarray(COLOUR).quantize(16)
    expected = np.array(palette.convert("RGB"))
    for format in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decoded(tmp_path, encoded(palette, format), "RGB"), expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_black(tmp_path, format):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    alpha = np.where(np.arange(60) < 20, 0, np.where(np.arange(60) < 40, 128, 255)) + np.zeros((40, 1))
    pixels = np.dstack([COLOUR, alpha.astype(np.uint8)])
    found = decoded(tmp_path, encoded(pixels, format, **options), "RGB")
    assert np.abs(found - COLOUR * alpha[..., None] / 255).max() <= 1
    assert not found[:, :20].any()


def test_every_kind_of_png_transparency_is_black(tmp_path):
    grey_alpha = Image.merge(
        "LA", [Image.fromarray(GREY), Image.fromarray(np.where(GREY == 50, 0, 255).astype(np.uint8))]
    )
    palette = Image.fromarray(GREY).convert("P")
    hole = np.where(GREY == 50, 0, GREY)
    np.testing.assert_array_equal(decoded(tmp_path, encoded(grey_alpha, "PNG")), hole)
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY, "PNG", transparency=50)), hole)
    np.testing.assert_array_equal(decoded(tmp_path, encoded(palette, "PNG", transparency=50)), hole)
    table = bytes([0 if value == 50 else 255 for value in range(256)])
    np.testing.assert_array_equal(decoded(tmp_path, encoded(palette, "PNG", transparency=table)), hole)
    white = COLOUR.copy()
    white[5, 5] = 255
    assert not decoded(tmp_path, encoded(white, "PNG", transparency=(255, 255, 255)), "RGB")[5, 5].any()
    deep = encoded(GREY.astype(np.uint16) * 16, "PNG", transparency=800)
    np.testing.assert_array_equal(decoded(tmp_path, deep), hole)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_grey_is_cut_to_8_of_the_bits_in_use(tmp_path, bits, format):
    full = GREY.copy()
    full[0, 0] = 255
    found = decoded(tmp_path, encoded((full.astype(np.uint16) << (bits - 8)) + 2 ** (bits - 8) - 1, format))
    np.testing.assert_array_equal(found, full)


def test_dark_and_32_bit_grey(tmp_path):
    np.testing.assert_array_equal(decoded(tmp_path, encoded((GREY // 2).astype(np.uint16), "PNG")), GREY // 2)
    assert not decoded(tmp_path, encoded(np.zeros((3, 4), np.uint16), "PNG")).any()
    wide = GREY.astype(np.int32) << 20
    wide[0, 0] = 255 << 20
    found = decoded(tmp_path, encoded(wide, "TIFF"), "RGB")
    np.testing.assert_array_equal(found[1:], np.dstack([GREY[1:]] * 3))


def test_floats(tmp_path):
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY.astype(np.float32), "TIFF")), GREY)
    np.testing.assert_array_equal(decoded(tmp_path, encoded((GREY / 255).astype(np.float32), "TIFF")), GREY)
    (tmp_path / "f.tif").write_bytes(encoded(np.float32([[0, 4095]]), "TIFF"))
    assert refused(tmp_path / "f.tif") == "pixel values go from 0 to 4095: floats must lie in 0..1 or 0..255"
    for value in (np.nan, np.inf, -np.inf):
        (tmp_path / "f.tif").write_bytes(encoded(np.float32([[0, value]]), "TIFF"))
        assert refused(tmp_path / "f.tif") == "some pixel values are not finite"
    (tmp_path / "f.tif").write_bytes(encoded(np.int32([[-1, 5]]), "TIFF"))
    assert refused(tmp_path / "f.tif") == "pixel values go from -1 to 5: they must not be negative"


def test_tiff_in_which_white_is_zero(tmp_path):
    full = GREY.copy()
    full[0, :2] = 0, 255
    inverted = (255 - full).astype(np.float32) / 255
    white_is_zero = {262: 0}
    np.testing.assert_array_equal(decoded(tmp_path, encoded(full, "TIFF", tiffinfo=white_is_zero)), full)  # by Pillow
    deep = encoded((255 - full).astype(np.uint16) * 256, "TIFF", tiffinfo=white_is_zero)
    np.testing.assert_array_equal(decoded(tmp_path, deep), full)
    np.testing.assert_array_equal(decoded(tmp_path, encoded(inverted, "TIFF", tiffinfo=white_is_zero)), full)


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG file, also of kinds that Pillow reads but does not write."""
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        PngImagePlugin.putchunk(file, kind, content)
    return file.getvalue()


def test_16_bit_colour_by_its_high_bytes_and_never_dark(tmp_path):
    def deep(values: np.ndarray) -> bytes:
        return png(60, 40, 16, 2, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))

    np.testing.assert_array_equal(decoded(tmp_path, deep(COLOUR.astype(np.uint16) * 257), "RGB"), COLOUR)
    dark = COLOUR.astype(np.uint16) * 16
    hot = dark.copy()
    hot[0, 0] = 65535
    for values in (dark, hot):
        (tmp_path / "dark.png").write_bytes(deep(values))
        assert refused(tmp_path / "dark.png").startswith("16-bit colour that uses fewer than 16 bits is not supported")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_as_pillow_applies_it(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(COLOUR, format, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert expected.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    np.testing.assert_array_equal(decoded(tmp_path, content, "RGB"), expected)


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"x" * 99])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_exif_block_does_not_spoil_the_picture(tmp_path, format, block):
    expected = decoded(tmp_path, encoded(GREY, format))
    np.testing.assert_array_equal(decoded(tmp_path, encoded(GREY, format, exif=block)), expected)


@pytest.mark.parametrize(("format", "first"), [("TIFF", GREY), ("PNG", GREY), ("WEBP", GREY), ("MPO", None)])
def test_the_first_of_several_pictures(tmp_path, format, first):
    options = {"lossless": True} if format == "WEBP" else {}
    images = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    found = decoded(tmp_path, encoded(images[0], format, save_all=True, append_images=images[1:], **options))
    if first is None:  # JPEG inside
        assert np.abs(found.astype(int) - GREY).mean() < 4
    else:
        np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is text.", "not a PNG, JPEG, TIFF, WebP, BMP or DICOM image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a PNG, JPEG, TIFF, WebP, BMP or DICOM image"),
        (encoded(GREY, "GIF"), "not a PNG, JPEG, TIFF, WebP, BMP or DICOM image"),
        (encoded(GREY, "PNG")[:20], "damaged or not supported: "),
        (encoded(COLOUR, "JPEG")[:-600], "damaged or not supported: "),
        (encoded(COLOUR, "TIFF")[:2000], "damaged or not supported: "),
        (encoded(COLOUR, "WEBP")[:200], "damaged or not supported: "),
        (encoded(COLOUR, "BMP")[:2000], "damaged or not supported: image file is truncated"),
        (encoded(Image.new("LAB", (4, 4)), "TIFF"), "damaged or not supported: "),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_files_that_are_no_image(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    assert refused(tmp_path / "x.png").startswith(reason)


def test_what_is_not_a_readable_file(tmp_path):
    assert refused(tmp_path / "none.png") == "No such file or directory"
    assert refused(tmp_path) == ("Is a directory" if os.name == "posix" else "Permission denied")
    assert refused("a\0b").startswith("damaged or not supported: embedded null")
    with pytest.raises(UserError, match=r"^image mode 'RGBA' is not known: expected 'L' or 'RGB'$"):
        read_image(tmp_path, "RGBA")


def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(GREY, "PNG"))
    (tmp_path / "x.png").chmod(0)
    with permissions_hold():
        assert refused(tmp_path / "x.png") == "Permission denied"


def of_size(format: str, width: int, height: int) -> bytes:
    """A small file that declares a size."""
    if format == "PNG":
        return png(width, height, 1, 0, b"")
    if format == "BMP":
        content = encoded(GREY, "BMP")
        return content[:18] + struct.pack("<ii", width, height) + content[26:]
    return (
        encoded(GREY, "TIFF")
        .replace(struct.pack("<I", 60), struct.pack("<I", width), 1)
        .replace(struct.pack("<I", 40), struct.pack("<I", height), 1)
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
@pytest.mark.filterwarnings("error")
def test_size_is_checked_before_decoding_and_not_by_pillows_limit(tmp_path, monkeypatch, format):
    def decode(_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here, and refuses twice as many
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    path = tmp_path / "huge"
    path.write_bytes(of_size(format, 9_000, 4_001))
    assert refused(path) == "9000 x 4001 pixels are more than the 36,000,000 allowed"
    path.write_bytes(of_size(format, 9_000, 4_000))
    with pytest.raises(KeyboardInterrupt):
        read_image(path)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path):
    """Each takes 61 bytes here, and of the largest image 40 ms."""
    content = encoded(GREY, "JPEG", progressive=True)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    usual = content.count(b"\xff\xda")
    for scans, good in ((100, True), (101, False)):
        (tmp_path / "scans.jpg").write_bytes(content[:end] + content[start:end] * (scans - usual) + content[end:])
        if good:
            np.testing.assert_array_equal(read_image(tmp_path / "scans.jpg"), decoded(tmp_path, content))
        else:
            assert (
                refused(tmp_path / "scans.jpg") == "a JPEG of more than 100 scans, which would take very long to decode"
            )


def samples() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = Image.fromarray(COLOUR[:12, :10])
    return [
        encoded(small, "PNG", exif=exif),
        encoded(small.quantize(8), "PNG", transparency=3),
        encoded(GREY[:12, :10].astype(np.uint16) * 16, "PNG"),
        encoded(small, "JPEG", exif=exif),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "WEBP", exif=exif),
        encoded(small, "BMP"),
        encoded(small, "TIFF", exif=exif),
        encoded(small, "TIFF", compression="tiff_lzw"),
        encoded(GREY[:12, :10].astype(np.float32), "TIFF"),
    ]


SAMPLES = samples()


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(SAMPLES) - 1), st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(["L", "RGB"]))
@example(7, 3, 1, "L")
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_are_read_or_refused(tmp_path_factory, sample, seed, mutations, mode):
    rng = random.Random(seed)
    content = bytearray(SAMPLES[sample])
    for _ in range(mutations):
        at = rng.randrange(len(content) if rng.random() < 0.5 else min(len(content), 60))
        if rng.random() < 0.8:
            content[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif rng.random() < 0.5:
            del content[at + 1 :]
        else:
            del content[at : at + rng.randrange(1, 9)]
        if len(content) < 2:
            break
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        pixels = read_image(path, mode)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == (2 if mode == "L" else 3)


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM"]))
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_bytes_raise_anything_else(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(start + content)
    with pytest.raises(ImageError):
        read_image(path)


def test_threads_may_read_at_the_same_time(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(GREY, "PNG"))
    (tmp_path / "bad.png").write_bytes(b"text")
    wrong = []

    def work() -> None:
        for _ in range(50):
            if not np.array_equal(read_image(tmp_path / "a.png"), GREY):
                wrong.append("pixels")
            try:
                read_image(tmp_path / "bad.png")
                wrong.append("bad")
            except ImageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_suffixes_are_those_of_the_formats():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in PICTURE_SUFFIXES} == {"PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP"}


ODD = {
    "nih-1024-gray.png": (1024, 1024),
    "nih-1024-rgba.png": (1024, 1024),
    "nih-upside-down.png": (1024, 1024),
    "cidc-large.jpg": (3308, 3670),
    "cidc-rgba.png": (600, 623),
    "cidc-rgba-transparent.png": (954, 955),
    "cidc-palette.png": (1261, 1269),
    "cidc-png-named.jpg": (361, 373),
    "cidc-upper-case.JPG": (772, 867),
    "cidc-tiny.png": (156, 157),
    "cxnet.webp": (1852, 2169),
    "cxnet.jfif": (821, 797),
    "made-16bit-12used.png": (1024, 1024),
    "made-exif-orientation-6.png": (448, 512),
    "made-exif-orientation-6.jpg": (448, 512),
    "made-cmyk.jpg": (512, 512),
    "made-gray-alpha.png": (512, 512),
    "made-float32.tif": (512, 512),
    "made two words é.png": (256, 256),
    "made-constant-black.png": (64, 64),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_files_are_read(odd, name):
    grey, colour = read_image(odd / name), read_image(odd / name, "RGB")
    assert grey.shape == ODD[name]
    assert colour.shape == (*ODD[name], 3)
    assert grey.dtype == colour.dtype == np.uint8
    if name != "made-constant-black.png":  # a radiograph: neither dark nor flat
        assert 60 < grey.mean() < 200
        assert grey.std() > 20


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad-truncated.jpg", "damaged or not supported: image file is truncated (27 bytes not processed)"),
        ("bad-zero-byte.png", "the file is empty"),
        ("bad-text.png", "not a PNG, JPEG, TIFF, WebP, BMP or DICOM image"),
        ("bad-huge-20000x20000.png", "20000 x 20000 pixels are more than the 36,000,000 allowed"),
    ],
)
def test_odd_files_are_refused(odd, name, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(odd / name) == reason


@pytest.mark.realdata
def test_every_odd_file_is_spoken_of_here(odd):
    refused_here = {"bad-truncated.jpg", "bad-zero-byte.png", "bad-text.png", "bad-huge-20000x20000.png"}
    dicom = {"monochrome1-jpeg.dcm", "monochrome2-jpeg.dcm"}
    assert {file.name for file in odd.iterdir()} - {"README.md"} == set(ODD) | refused_here | dicom


@pytest.mark.realdata
def test_odd_copies_of_one_radiograph_agree(odd):
    original = read_image(odd / "nih-1024-gray.png")
    np.testing.assert_array_equal(read_image(odd / "made-16bit-12used.png"), original)
    small = read_image(odd / "made-gray-alpha.png")
    np.testing.assert_array_equal(read_image(odd / "made-float32.tif"), small)
    assert np.abs(read_image(odd / "made-cmyk.jpg").astype(int) - small).mean() < 1
    turned = read_image(odd / "made-exif-orientation-6.png")
    assert np.abs(read_image(odd / "made-exif-orientation-6.jpg").astype(int) - turned).mean() < 2
    expected = ImageOps.exif_transpose(Image.open(odd / "made-exif-orientation-6.png"))
    np.testing.assert_array_equal(turned, np.array(expected.convert("L")))
