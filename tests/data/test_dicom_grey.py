"""Grey levels and colours of DICOM files whose tables, windows and bits are unusual or wrong.

References: PS3.3 and PS3.5 of the standard, pydicom's own functions where they are right, and DCMTK's dcm2img
(dcmimgle's DiLookupTable), which corrects descriptors that do not fit their entries.
"""

import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless

from cvrnet.data import read_image
from cvrnet.data.dicom_grey import FUNCTIONS
from tests.data.test_dicom import RAMP, refused, window, write

GOOD = {"WindowCenter": 2048, "WindowWidth": 4096}
STRETCHED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def table(entries, first=0, depth=16, count=None, vr="OW") -> Dataset:
    """An item of a sequence of tables; the descriptor says what it is told."""
    item, entries = Dataset(), np.asarray(entries)
    count = len(entries) if count is None else count
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count % 65536, first, depth])
    if entries.dtype == np.uint8:
        data = entries.tobytes() + b"\0" * (len(entries) % 2)
    else:
        data = entries.astype("<u2").tobytes()
    item.add_new("LUTData", vr, data if vr == "OW" else entries.tolist())
    return item


def edited(path, **tags):
    ds = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(path)
    return path


CURVE = np.sqrt(np.linspace(0, 1, 4096))  # of a table, from black to white


@pytest.mark.parametrize("stored", [10, 12, 14, 16])
@pytest.mark.parametrize("declared", [0, 8, 10, 12, 14, 16, 32])
def test_a_voi_lut_counts_by_its_real_depth(tmp_path, declared, stored):
    """As DCMTK with --ignore-voi-lut-depth, Horos and Cornerstone; Agfa's CRs declare 16 bits for 12."""
    entries = np.rint(CURVE * (2**stored - 1)).astype(int)
    right = Dataset()
    right.VOILUTSequence = [table(entries, depth=stored)]
    right.set_original_encoding(False, True)
    expected = apply_voi_lut(RAMP, right) * (255 / (2**stored - 1))
    path = write(tmp_path / "a.dcm", VOILUTSequence=[table(entries, depth=declared)], **GOOD)
    np.testing.assert_array_equal(read_image(path), np.rint(expected))


def test_a_voi_lut_whose_depth_is_right_keeps_its_white(tmp_path):
    """The output range is 0 to 2^n - 1, whether the entries reach it or not (PS3.3 C.11.6.1)."""
    path = write(tmp_path / "a.dcm", VOILUTSequence=[table(CURVE * 40000)])
    np.testing.assert_array_equal(read_image(path), np.rint((CURVE * 40000).astype(int)[RAMP] * (255 / 65535)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("count", [4096, 4095])
def test_a_voi_lut_of_bytes(tmp_path, count, depth):
    """Entries of 8 bits are packed (PS3.3 C.11.2.1.1); pydicom's apply_voi_lut takes them for words."""
    entries = np.rint(CURVE[:count] * 255).astype(np.uint8)
    path = write(tmp_path / "a.dcm", VOILUTSequence=[table(entries, depth=depth)], **GOOD)
    np.testing.assert_array_equal(read_image(path), entries[np.minimum(RAMP, count - 1)])


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("first", [-2048, 63488, -100, 65436])
def test_a_voi_luts_first_value_may_be_negative(tmp_path, first, vr):
    """US or SS, as PixelRepresentation or the rescaling needs (PS3.3 C.11.2.1.1); entries are always unsigned."""
    signed, entries = RAMP.astype(np.int16) - 2048, np.rint(CURVE * 65535).astype(int)
    right = Dataset()
    right.VOILUTSequence = [table(entries, first=first - 65536 if first > 0 else first)]
    right.set_original_encoding(False, True)
    expected = np.rint(apply_voi_lut(signed, right) * (255 / 65535))
    sequence = {"VOILUTSequence": [table(entries, first=first, vr=vr)]}
    np.testing.assert_array_equal(read_image(write(tmp_path / "s.dcm", signed, **sequence)), expected)
    path = write(tmp_path / "u.dcm", RescaleSlope=1, RescaleIntercept=-2048, **sequence)
    np.testing.assert_array_equal(read_image(path), expected)


def test_entries_in_a_signed_element_are_unsigned(tmp_path):
    entries = np.rint(CURVE * 65535).astype(int)
    item = table(entries)
    item.add_new("LUTData", "SS", np.where(entries > 32767, entries - 65536, entries).tolist())
    np.testing.assert_array_equal(
        read_image(write(tmp_path / "a.dcm", VOILUTSequence=[item])), np.rint(entries[RAMP] * (255 / 65535))
    )


def without(item: Dataset, name: str) -> Dataset:
    delattr(item, name)
    return item


BROKEN = {
    "short": lambda: table(np.arange(100) * 16, count=4096),
    "half": lambda: table(np.arange(2048) * 16, count=4096),
    "empty": lambda: table([], count=4096),
    "constant": lambda: table(np.full(4096, 7)),
    "without data": lambda: without(table(np.arange(4096)), "LUTData"),
    "without descriptor": lambda: without(table(np.arange(4096)), "LUTDescriptor"),
    "for other values": lambda: table(np.arange(4096) * 16, first=20000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_voi_lut_gives_way(tmp_path, kind):
    """To the next table, then to the window, then to what holds without either."""
    table_beside = write(tmp_path / "t.dcm", VOILUTSequence=[BROKEN[kind](), table(CURVE * 4095, depth=12)])
    np.testing.assert_array_equal(read_image(table_beside), np.rint((CURVE * 4095).astype(int)[RAMP] * (255 / 4095)))
    window_beside = write(tmp_path / "w.dcm", VOILUTSequence=[BROKEN[kind]()], **GOOD)
    np.testing.assert_array_equal(read_image(window_beside), window(RAMP.astype(float), 2048, 4096))
    alone = read_image(write(tmp_path / "a.dcm", VOILUTSequence=[BROKEN[kind]()]))
    np.testing.assert_array_equal(alone, read_image(write(tmp_path / "n.dcm")))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("kind", ["voi", "modality", "palette", "bytes"])
def test_tables_in_other_encodings(tmp_path, kind, syntax):
    """Implicit VR, in which pydicom chooses the VR of a table, and big endian."""
    entries = np.rint(CURVE * 65535).astype(int)
    if kind == "palette":
        path = palette_file(tmp_path / "a.dcm", RAMP, 12, [entries.astype("<u2")] * 3, 16)
    else:
        item = table((entries >> 8).astype(np.uint8), depth=8) if kind == "bytes" else table(entries)
        path = write(tmp_path / "a.dcm", **{f"{'Modality' if kind == 'modality' else 'VOI'}LUTSequence": [item]})
    ds = pydicom.dcmread(path)
    expected = read_image(path)
    if syntax.endswith(".2.2"):
        holder = ds if kind == "palette" else (ds.get("VOILUTSequence") or ds.ModalityLUTSequence)[0]
        for element in holder:
            if element.VR == "OW" and element.keyword != "PixelData":
                element.value = np.frombuffer(element.value, "<u2").astype(">u2").tobytes()
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.walk(lambda _, element: element.value)  # read now: dcmwrite does not convert what is still bytes
    little = not syntax.endswith(".2.2")
    pydicom.dcmwrite(tmp_path / "b.dcm", ds, implicit_vr=little, little_endian=little)
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm"), expected)


def test_entries_that_no_pixel_needs_may_be_missing(tmp_path):
    path = write(tmp_path / "a.dcm", VOILUTSequence=[table(CURVE * 4095, depth=12, count=65536)])
    np.testing.assert_array_equal(read_image(path), np.rint((CURVE * 4095).astype(int)[RAMP] * (255 / 4095)))


def exact(x, level, width):  # PS3.3 C.11.2.1.3.2
    return np.rint(np.clip(((x - level) / width + 0.5) * 255, 0, 255))


def sigmoid(x, level, width):  # PS3.3 C.11.2.1.3.1
    return np.rint(255 / (1 + np.exp(np.clip(-4 * (x - level) / width, -700, 700))))


@given(level=st.integers(0, 4095), width=st.sampled_from([1e-300, 0.25, 1, 7.5, 500, 4096, 60000]))
@settings(**STRETCHED)
def test_exact_and_sigmoid_windows(tmp_path, level, width):
    """Any width above 0, also of less than 1 (PS3.3 C.11.2.1.3)."""
    with np.errstate(over="ignore"):
        expected = {"LINEAR_EXACT": exact(RAMP + 0.25, level, width), "SIGMOID": sigmoid(RAMP + 0.25, level, width)}
    for function, picture in expected.items():
        tags = {"WindowCenter": level, "WindowWidth": f"{width:g}", "VOILUTFunction": function}
        path = write(tmp_path / "a.dcm", **tags, RescaleSlope=1, RescaleIntercept=0.25)
        assert np.abs(read_image(path) - picture).max() <= (np.abs(RAMP + 0.25 - level).min() < width)


UNUSABLE = [("2048", "0"), ("2048", "-4096"), ("2048", "nan"), ("inf", "4096"), ("2048", "inf"), ("2048", "1e30"),
            ("nan", "nan"), ("", ""), ("2048", ""), ("", "4096")]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("level", "width"), UNUSABLE)
def test_windows_that_show_nothing_are_passed_over(tmp_path, level, width, function):
    """The next of several windows is taken (PS3.3 C.11.2.1.2.1 Note: they are alternatives), else there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of values that are no decimal strings
        tags = {"VOILUTFunction": function}
        several = write(tmp_path / "s.dcm", WindowCenter=[level, 1000], WindowWidth=[width, 3000], **tags)
        alone = write(tmp_path / "a.dcm", WindowCenter=level, WindowWidth=width, **tags)
    expected = {"LINEAR": window, "LINEAR_EXACT": exact, "SIGMOID": sigmoid}[function](RAMP.astype(float), 1000, 3000)
    assert np.abs(read_image(several) - expected.astype(int)).max() <= 1
    np.testing.assert_array_equal(read_image(alone), read_image(write(tmp_path / "n.dcm")))


def test_a_linear_window_is_at_least_one_wide(tmp_path):
    narrow = read_image(write(tmp_path / "a.dcm", WindowCenter=2048, WindowWidth="0.5"))
    np.testing.assert_array_equal(narrow, read_image(write(tmp_path / "n.dcm")))
    threshold = read_image(write(tmp_path / "b.dcm", WindowCenter=2048, WindowWidth=1))  # C.11.2.1.2.1 Note 5
    np.testing.assert_array_equal(threshold, np.where(RAMP >= 2048, 255, 0))


EIGHT = (RAMP >> 5).astype(np.uint8) + 60


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, 0), (1, -128), (0.5, 10), (0, 0)])
def test_rescaling_does_not_change_8_bits_without_a_window(tmp_path, slope, intercept):
    """It gives values a unit; contrast is the VOI's (PS3.3 C.11.1). DCMTK ignores a slope of 0."""
    path = write(tmp_path / "a.dcm", EIGHT, 8, RescaleSlope=slope, RescaleIntercept=intercept)
    np.testing.assert_array_equal(read_image(path), EIGHT)
    deep = write(tmp_path / "b.dcm", RAMP + 100, 13, RescaleSlope=slope, RescaleIntercept=intercept)
    assert np.abs(read_image(deep).astype(int) - read_image(write(tmp_path / "n.dcm", RAMP + 100, 13))).max() <= 1


def test_8_bits_in_16_are_8_bits(tmp_path):
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", EIGHT.astype(np.uint16), 8)), EIGHT)
    inverted = read_image(write(tmp_path / "b.dcm", EIGHT, 8, RescaleSlope=-1, RescaleIntercept=255))
    np.testing.assert_array_equal(inverted, 255 - EIGHT)


@given(data=st.data(), signed=st.booleans(), windowed=st.booleans())
@settings(**STRETCHED)
def test_only_bits_stored_below_high_bit_count(tmp_path, data, signed, windowed):
    """PS3.5 8.1.1: the other bits of a cell are not of the pixel; they may hold overlays (PS3.5 8.1.2)."""
    bits = data.draw(st.integers(2, 15))
    high = data.draw(st.integers(bits - 1, 15))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed), (20, 30))
    cells = (values % 2**bits) << (high - bits + 1)
    others = 0xFFFF ^ ((2**bits - 1) << (high - bits + 1))
    cells = (cells | (rng.integers(0, 2**16, values.shape) & others)).astype(np.uint16)
    tags = {"WindowCenter": 0.4 * 2**bits, "WindowWidth": 2**bits} if windowed else {}
    kind = np.int16 if signed else np.uint16
    expected = read_image(write(tmp_path / "a.dcm", values.astype(kind), bits, **tags))
    path = edited(write(tmp_path / "b.dcm", cells.view(kind), bits, **tags), HighBit=high)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("high", [11, 15])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_an_overlay_in_a_jpeg_2000_codestream_is_masked(tmp_path, kind, high):
    """The codestream has 16 bits, of which BitsStored count, as in uncompressed cells (PS3.5 8.2.4)."""
    values = RAMP.astype(np.int32) - (2048 if kind is np.int16 else 0)
    cells = (values % 4096) << (high - 11)
    cells = (cells | np.where(RAMP % 3 == 0, 1 << 12 if high == 11 else 1, 0)).astype(np.uint16).view(kind)
    path = write(tmp_path / "a.dcm", cells, 16)
    ds = pydicom.dcmread(path)
    ds.compress(JPEG2000Lossless)
    ds.BitsStored, ds.HighBit, ds.WindowCenter, ds.WindowWidth = 12, high, 2000, 3000
    ds.save_as(path)
    np.testing.assert_array_equal(read_image(path), window(values.astype(float), 2000, 3000))


def test_a_codestream_of_the_stored_bits_ignores_high_bit(tmp_path):
    """DCMTK's decoders set HighBit to the codestream's precision minus 1."""
    path = write(tmp_path / "a.dcm", **GOOD)
    ds = pydicom.dcmread(path)
    ds.compress(JPEG2000Lossless)
    ds.HighBit = 15
    ds.save_as(path)
    np.testing.assert_array_equal(read_image(path), window(RAMP.astype(float), 2048, 4096))


@pytest.mark.parametrize("depth", [12, 16])
def test_a_modality_lut(tmp_path, depth):
    """Used instead of slope and intercept (PS3.3 C.11.1); then comes the window."""
    entries = np.rint(CURVE * 4095).astype(int)
    right = Dataset()
    right.ModalityLUTSequence = [table(entries)]
    right.set_original_encoding(False, True)
    expected = apply_modality_lut(RAMP, right).astype(float)
    sequence = {"ModalityLUTSequence": [table(entries, depth=depth)]}
    path = write(tmp_path / "a.dcm", WindowCenter=1800, WindowWidth=2000, **sequence)
    np.testing.assert_array_equal(read_image(path), window(expected, 1800, 2000))
    low, high = np.quantile(expected, [0.005, 0.995])
    alone = np.rint(np.clip((expected - low) * 255 / (high - low), 0, 255))
    assert np.abs(read_image(write(tmp_path / "b.dcm", **sequence)) - alone).max() <= 1
    broken = write(
        tmp_path / "c.dcm",
        ModalityLUTSequence=[BROKEN["short"]()],
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=1800,
        WindowWidth=2000,
    )
    np.testing.assert_array_equal(read_image(broken), window(RAMP * 2.0 - 100, 1800, 2000))


@pytest.mark.parametrize(
    "tags",
    [
        {},
        GOOD,
        {**GOOD, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [table(CURVE * 4095, depth=16)]},
        {"VOILUTSequence": [BROKEN["short"]()], **GOOD},
        {"ModalityLUTSequence": [table(CURVE * 4095)]},
        {"RescaleSlope": -1, "RescaleIntercept": 4095},
    ],
)
def test_monochrome1_is_the_inverse(tmp_path, tags):
    """Of the values after the VOI transformation (PS3.3 C.7.6.3.1.2)."""
    light = read_image(write(tmp_path / "2.dcm", **tags))
    assert light.std() > 20
    dark = read_image(write(tmp_path / "1.dcm", **tags, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(dark, 255 - light)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("windowed", [True, False])
def test_padding_outside_the_stored_bits_is_black(tmp_path, kind, windowed):
    """It is not allowed (PS3.3 C.7.5.1.1.2); its BitsStored bits alone would be a value of the picture."""
    tags = {"PhotometricInterpretation": kind, **(GOOD if windowed else {})}
    inside = read_image(write(tmp_path / "a.dcm", RAMP[20:], **tags))
    cells = RAMP.copy()
    cells[:20] = 0x8800
    path = write(tmp_path / "b.dcm", cells, PixelPaddingValue=0x8800, **tags)
    np.testing.assert_array_equal(read_image(path), np.vstack([np.zeros((20, 60), np.uint8), inside]))


@pytest.mark.parametrize(("value", "limit"), [(-2000, None), (63536, None), (-2000, -1900), (63536, 63636)])
def test_padding_has_the_bits_of_the_pixels(tmp_path, value, limit):
    """A negative value that was written as US, and a range of values (PS3.3 C.7.5.1.1.2)."""
    inside = (RAMP[20:] // 4).astype(np.int16)
    cells = np.vstack([np.full((20, 60), -2000, np.int16), inside])
    cells[10:20] += 50 if limit else 0
    tags = {"PixelPaddingValue": value % 65536} | ({"PixelPaddingRangeLimit": limit % 65536} if limit else {})
    path = write(tmp_path / "b.dcm", cells, 12)
    ds = pydicom.dcmread(path)
    for name, number in tags.items():
        if value < 0:
            ds.add_new(name, "SS", number - 65536)
        else:
            ds.add_new(name, "US", number)
    ds.save_as(path)
    np.testing.assert_array_equal(read_image(path)[20:], read_image(write(tmp_path / "a.dcm", inside, 12)))


def palette_file(path, indices, bits, entries, depth, first=0):
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, one in zip(("Red", "Green", "Blue"), entries, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(one) % 65536, first, depth]
        tags[f"{colour}PaletteColorLookupTableData"] = one.tobytes() + b"\0" * (one.nbytes % 2)
    return write(path, indices, bits, **tags)


@pytest.mark.parametrize(
    ("stored", "declared", "white"),
    [("u1", 8, 255), ("<u2", 8, 255), ("<u2", 12, 4095), ("<u2", 16, 65535), ("<u2", 8, 65535), ("<u2", 16, 255)],
)
def test_palettes_count_by_their_declared_depth(tmp_path, stored, declared, white):
    """Also 8 bits in words of 16 (PS3.3 C.7.6.3.1.6); a depth that the entries exceed, or leave empty, is wrong."""
    eight = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 100)])
    entries = (eight * (white // 255)).astype(stored)
    picture = read_image(palette_file(tmp_path / "a.dcm", EIGHT, 8, entries, declared), "RGB")
    assert np.abs(picture - eight[:, EIGHT].transpose(1, 2, 0)).max() <= 1


def test_more_than_256_entries_of_bytes(tmp_path):
    """pydicom's apply_color_lut keeps such indices in 8 bits; for words it agrees."""
    eight = np.stack([CURVE * 255, CURVE[::-1] * 255, CURVE * 100]).astype(np.uint8)
    picture = read_image(palette_file(tmp_path / "a.dcm", RAMP, 12, eight, 8), "RGB")
    np.testing.assert_array_equal(picture, eight[:, RAMP].transpose(1, 2, 0))
    words = palette_file(tmp_path / "b.dcm", RAMP, 12, eight.astype("<u2") << 8, 16, first=500)
    np.testing.assert_array_equal(read_image(words, "RGB"), apply_color_lut(RAMP, pydicom.dcmread(words)) >> 8)


@given(st.lists(st.tuples(st.integers(0, 2399), st.integers(0, 4095)), min_size=1, max_size=6), st.booleans())
@settings(**STRETCHED)
def test_a_few_pixels_do_not_move_a_picture_without_a_window(tmp_path, pixels, inverted):
    inside = RAMP // 5 + 700
    tags = {"PhotometricInterpretation": f"MONOCHROME{2 - inverted}"}
    before = read_image(write(tmp_path / "a.dcm", inside, **tags)).astype(int)
    hot = inside.copy()
    hot.flat[[place for place, _ in pixels]] = [value for _, value in pixels]
    after = read_image(write(tmp_path / "b.dcm", hot, **tags)).astype(int)
    assert np.abs(after - before)[hot == inside].max() <= 3
    assert abs(after.mean() - before.mean()) < 2


def test_without_a_window_version_1_counts_every_pixel(tmp_path):
    path = write(tmp_path / "a.dcm", RAMP // 2)
    np.testing.assert_array_equal(read_image(path, grey_version=1), np.rint(RAMP // 2 * (255 / 2047)))
    identity = write(tmp_path / "b.dcm", EIGHT, 8, RescaleSlope=1, RescaleIntercept=0)
    np.testing.assert_array_equal(read_image(identity, grey_version=1), np.rint((EIGHT - 60.0) * (255 / 127)))


def test_values_that_are_not_finite_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "a.dcm", RescaleSlope="nan", RescaleIntercept=0)
    assert refused(path) == "some pixel values are not finite"


def test_a_damaged_number_spoils_only_its_own_window(tmp_path):
    path = write(tmp_path / "a.dcm", WindowCenter=["20480", "1000"], WindowWidth=["4096", "3000"])
    path.write_bytes(path.read_bytes().replace(b"20480\\1000", b"20x80\\1000"))
    np.testing.assert_array_equal(read_image(path), window(RAMP.astype(float), 1000, 3000))


def test_a_padding_range_that_covers_everything_is_none(tmp_path):
    expected = read_image(write(tmp_path / "n.dcm"))
    for limit in (4095, 65535):
        path = write(tmp_path / "a.dcm", PixelPaddingValue=0, PixelPaddingRangeLimit=limit)
        np.testing.assert_array_equal(read_image(path), expected)


def test_signed_bits_of_a_run_length_encoded_file(tmp_path):
    """Run lengths compress the cells as they are, so HighBit counts as in an uncompressed file (PS3.5 G)."""
    values = (RAMP // 16).astype(np.uint16)  # of 12 bits that begin at bit 4: so small that 12 bits hold the cells
    path = write(tmp_path / "a.dcm", values << 4, 16, WindowCenter=128, WindowWidth=256)
    ds = pydicom.dcmread(path)
    ds.compress(pydicom.uid.RLELossless)
    ds.BitsStored, ds.HighBit = 12, 15
    ds.save_as(path)
    np.testing.assert_array_equal(read_image(path), window(values.astype(float), 128, 256))


def test_values_far_from_a_table(tmp_path):
    """Rescaled values of any size get the entry at the table's end."""
    sequence = {"VOILUTSequence": [table(CURVE * 4095, depth=12)]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        path = write(tmp_path / "a.dcm", RescaleSlope="1e300", RescaleIntercept=0, **sequence)
        assert set(np.unique(read_image(path))) == {0, 255}


@pytest.mark.parametrize("entries", [4096, 65536])
def test_entries_that_no_pixel_can_reach_do_not_darken_the_picture(tmp_path, entries):
    """A table of 65536 entries for pixels of 12 bits: the range of the 4096 that they can reach counts."""
    item = table(np.arange(entries), depth=16, count=entries)
    path = write(tmp_path / "a.dcm", VOILUTSequence=[item], BitsStored=12, HighBit=11, BitsAllocated=16)
    np.testing.assert_array_equal(read_image(path), np.rint(RAMP * (255 / 4095)))


def group(**tags) -> Dataset:
    """An item of a sequence of functional groups, with a window and a rescaling."""
    item, macros = Dataset(), {}
    for name, value in tags.items():
        macro = "FrameVOILUTSequence" if name.startswith("Window") else "PixelValueTransformationSequence"
        setattr(macros.setdefault(macro, Dataset()), name, value)
    for macro, content in macros.items():
        setattr(item, macro, [content])
    return item


def test_functional_groups_give_a_frame_its_window_and_rescaling(tmp_path):
    """As in an enhanced CT, which has neither at the top (PS3.3 C.7.6.16.2.9 and C.7.6.16.2.10)."""
    expected = read_image(write(tmp_path / "top.dcm", RescaleSlope=2, RescaleIntercept=-1000, **GOOD))
    shared = group(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=10)
    for both in ([group(**GOOD)], [group(**GOOD), group(WindowCenter=1, WindowWidth=1)]):
        tags = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": both}
        path = write(tmp_path / "groups.dcm", **tags)
        np.testing.assert_array_equal(read_image(path), expected)
    only_shared = write(tmp_path / "s.dcm", SharedFunctionalGroupsSequence=[group(**GOOD)])
    np.testing.assert_array_equal(read_image(only_shared), read_image(write(tmp_path / "w.dcm", **GOOD)))


def test_a_hounsfield_window_reads_the_rescaling_of_functional_groups(tmp_path):
    tags = {"Modality": "CT", "WindowCenter": 0, "WindowWidth": 100}
    top = write(tmp_path / "top.dcm", RescaleSlope=1, RescaleIntercept=-1024, **tags)
    shared = [group(RescaleSlope=1, RescaleIntercept=-1024)]
    grouped = write(tmp_path / "g.dcm", SharedFunctionalGroupsSequence=shared, **tags)
    np.testing.assert_array_equal(read_image(grouped, window="lung"), read_image(top, window="lung"))


def test_a_long_sequence_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    """It is read after the header, and pydicom makes an object of every 8 bytes."""
    monkeypatch.setattr("cvrnet.data.dicom._LONG_SEQUENCE", 8000)
    read_image(write(tmp_path / "a.dcm", VOILUTSequence=[Dataset()] * 1000))
    path = write(tmp_path / "b.dcm", VOILUTSequence=[Dataset()] * 1001)
    assert "too many items" in refused(path)
