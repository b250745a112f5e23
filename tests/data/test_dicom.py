"""DICOM: pixels against pydicom's and the standard's formulas, series, pseudonyms, and no tag let out."""

import contextlib
import csv
import io
import logging
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cvrnet.data import ImageError, read_image, read_records, write_manifest
from cvrnet.data.identity import KEY, PLAIN, pseudonym
from cvrnet.data.limits import WINDOWS
from cvrnet.data.series import arrange

SECRET = "Doe^Jane-4711"
RAMP = np.linspace(0, 4095, 40 * 60).reshape(40, 60).astype(np.uint16)


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv(KEY, "a key of the tests")


def write(path: Path, pixels: np.ndarray = RAMP, bits: int = 12, **tags) -> Path:
    """A DICOM file with these pixels: (H, W), (frames, H, W) or, with a photometric interpretation of colour, RGB."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.PatientName, ds.PatientID, ds.InstitutionName = SECRET, SECRET, SECRET
    ds.Modality, ds.PhotometricInterpretation = "DX", "MONOCHROME2"
    for name, value in tags.items():
        setattr(ds, name, value)
    colour = pixels.shape[-1] == 3
    ds.SamplesPerPixel = 3 if colour else 1
    if colour:
        ds.PlanarConfiguration = 0
    if pixels.ndim - colour == 3:
        ds.NumberOfFrames = len(pixels)
    ds.Rows, ds.Columns = pixels.shape[:2] if pixels.ndim - colour == 2 else pixels.shape[1:3]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixels.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


def ct(path: Path, hu: np.ndarray, **tags) -> Path:
    given = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, **tags}
    return write(path, (hu + 1024).astype(np.uint16), **given)


def refused(path) -> str:
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    return error.value.reason


def window(values: np.ndarray, level: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, to 0..255."""
    y = ((values - (level - 0.5)) / (width - 1) + 0.5) * 255
    y[values <= level - 0.5 - (width - 1) / 2] = 0
    y[values > level - 0.5 + (width - 1) / 2] = 255
    return np.rint(y).astype(np.uint8)


@given(level=st.integers(-1000, 3000), width=st.integers(2, 5000), slope=st.sampled_from([1, 2, 0.5]))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_window_is_the_standards(tmp_path, level, width, slope):
    path = write(tmp_path / "a.dcm", WindowCenter=level, WindowWidth=width, RescaleSlope=slope, RescaleIntercept=-100)
    np.testing.assert_array_equal(read_image(path), window(RAMP * float(slope) - 100, level, width))


def test_monochrome1_is_inverted_and_the_first_window_is_taken(tmp_path):
    light = read_image(write(tmp_path / "2.dcm", WindowCenter=[2000, 50], WindowWidth=[3000, 100]))
    path = write(
        tmp_path / "1.dcm", WindowCenter=[2000, 50], WindowWidth=[3000, 100], PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(light, window(RAMP.astype(float), 2000, 3000))
    np.testing.assert_array_equal(read_image(path), 255 - light)
    np.testing.assert_array_equal(read_image(path, "RGB"), np.dstack([255 - light] * 3))


@pytest.mark.parametrize("bits", [8, 12])
def test_a_voi_table_comes_before_a_window(tmp_path, bits):
    item = Dataset()
    item.LUTDescriptor, table = [4096, 0, bits], (np.arange(4096)[::-1] >> (12 - bits)).astype(np.uint16)
    item.add_new("LUTData", "OW", table.tobytes())
    path = write(tmp_path / "a.dcm", VOILUTSequence=[item], WindowCenter=5, WindowWidth=5)
    np.testing.assert_array_equal(read_image(path), np.rint(table[RAMP] * (255 / (2**bits - 1))))


def test_without_a_window(tmp_path):
    eight = (RAMP >> 5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "8.dcm", eight, 8)), eight)
    low, high = np.quantile(RAMP // 2, (0.005, 0.995), method="nearest")
    expected = np.rint(np.clip((RAMP // 2 - float(low)) * (255 / (high - low)), 0, 255))
    np.testing.assert_array_equal(read_image(write(tmp_path / "12.dcm", RAMP // 2)), expected)
    padded = RAMP // 2 + 100
    padded[0] = 0
    shown = read_image(write(tmp_path / "p.dcm", padded, PixelPaddingValue=0))
    assert shown[1].min() == 0
    assert shown.max() == 255
    assert not read_image(write(tmp_path / "flat.dcm", np.full((9, 9), 7, np.uint16))).any()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_is_as_uncompressed(tmp_path, syntax):
    plain = write(tmp_path / "plain.dcm", WindowCenter=2000, WindowWidth=3000)
    ds = pydicom.dcmread(plain)
    if syntax == RLELossless:
        ds.compress(syntax)
        ds.save_as(tmp_path / "small.dcm")
        np.testing.assert_array_equal(read_image(tmp_path / "small.dcm"), read_image(plain))
    name = {
        RLELossless: "MR_small_RLE.dcm",
        JPEGLSLossless: "MR_small_jpeg_ls_lossless.dcm",
        JPEG2000Lossless: "MR_small_jp2klossless.dcm",
    }[syntax]
    assert pydicom.dcmread(get_testdata_file(name)).file_meta.TransferSyntaxUID == syntax
    pictures = [read_image(radiograph(tmp_path, n)) for n in (name, "MR_small.dcm")]
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].std() > 20


def radiograph(tmp_path: Path, name: str) -> Path:
    """One of pydicom's own files, as if it were a radiograph."""
    ds = pydicom.dcmread(get_testdata_file(name))
    ds.Modality, ds.BodyPartExamined = "DX", "CHEST"
    ds.save_as(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),  # lossless JPEG
        ("SC_rgb_small_odd.dcm", 0),
        ("SC_ybr_full_422_uncompressed.dcm", 2),
        ("SC_rgb_jpeg_dcmtk.dcm", 2),
        ("SC_rgb_dcmtk_+eb+cr.dcm", 2),
        ("SC_rgb_gdcm_KY.dcm", 2),  # JPEG 2000
    ],
)
def test_colour_of_pydicoms_own_files(name, difference):
    """All but the smallest show the same bars: red, green, blue, black, grey, white."""
    path = get_testdata_file(name)
    picture = read_image(path, "RGB").astype(int)
    reference = pydicom.dcmread(get_testdata_file("SC_rgb_rle.dcm" if "odd" not in name else name)).pixel_array
    assert np.abs(picture - reference).mean() <= difference
    np.testing.assert_array_equal(read_image(path), np.array(Image.fromarray(picture.astype(np.uint8)).convert("L")))


def test_palette(tmp_path):
    path = radiograph(tmp_path, "examples_palette.dcm")
    picture = read_image(path, "RGB")
    ds = pydicom.dcmread(path)
    red = np.frombuffer(ds.RedPaletteColorLookupTableData, np.uint16)
    np.testing.assert_array_equal(picture[..., 0], red[ds.pixel_array] >> 8)


def hu_window(hu: np.ndarray) -> np.ndarray:
    return window(hu.astype(float), *WINDOWS["lung"])


def test_lung_window_needs_a_ct(tmp_path):
    hu = np.linspace(-1024, 1000, 900).reshape(30, 30).astype(int)
    path = ct(tmp_path / "ct.dcm", hu, WindowCenter=40, WindowWidth=400)
    np.testing.assert_array_equal(read_image(path, window="lung"), hu_window(hu))
    np.testing.assert_array_equal(read_image(path), window(hu.astype(float), 40, 400))
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png")
    for other in (write(tmp_path / "dx.dcm"), tmp_path / "a.png"):
        with pytest.raises(ImageError, match="needs Hounsfield units"):
            read_image(other, window="lung")
    with pytest.raises(ValueError, match="expected lung or soft-tissue"):
        read_image(path, window="bone")


def test_one_line_for_what_is_no_picture_of_a_chest(tmp_path):
    path = tmp_path / "a.dcm"
    assert "another part of the body" in refused(write(path, BodyPartExamined="SKULL"))
    assert "another part of the body" in refused(write(path, BodyPartExamined="THORACIC SPINE"))
    assert "another modality" in refused(write(path, Modality="MG"))
    for part in ("", "CHEST", "Thorax AP", "CHEST_TO_PELVIS"):
        read_image(write(path, BodyPartExamined=part))
    assert refused(get_testdata_file("reportsi.dcm")) == "a DICOM file without pixel data, not an image"
    assert "3 frames" in refused(write(path, np.stack([RAMP] * 3)))

    whole = write(path).read_bytes()
    path.write_bytes(whole[:-2000])
    assert "truncated" in refused(path)
    for length in (132, 140, 200, 400, 700):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels are more than the 36,000,000 allowed"),
        (
            {"Rows": 6000, "Columns": 6000, "BitsAllocated": 32},
            "6000 x 6000 pixels are more than the 18,000,000 allowed",
        ),
        ({"NumberOfFrames": 2**31 - 1}, "2147483647 frames: expected 1 to 10,000"),
        ({"Rows": 0}, "60 x 0 pixels with 1 samples per pixel; expected at least 1 x 1, and 1 or 3 samples"),
        ({"Rows": 6000, "Columns": 6000}, "truncated: the file is too small for the pixels that it declares"),
        ({"PhotometricInterpretation": "HSV"}, "its photometric interpretation is not supported"),
    ],
)
def test_impossible_sizes_are_refused_before_decoding(tmp_path, tags, reason, monkeypatch):
    ds = pydicom.dcmread(write(tmp_path / "a.dcm"))
    for name, value in tags.items():
        setattr(ds, name, value)
    ds.save_as(tmp_path / "a.dcm")
    if "Photometric" not in next(iter(tags)):
        monkeypatch.setattr("cvrnet.data.dicom.pixel_array", None)
    assert refused(tmp_path / "a.dcm") == reason


def test_a_codestream_larger_than_the_tags_say_is_not_decoded(tmp_path, monkeypatch):
    ds = pydicom.dcmread(get_testdata_file("SC_rgb_gdcm_KY.dcm"))
    ds.PixelData = ds.PixelData.replace((100).to_bytes(4) * 2, (60000).to_bytes(4) * 2, 1)
    ds.save_as(tmp_path / "bomb.dcm")
    monkeypatch.setattr("cvrnet.data.dicom.pixel_array", None)
    assert refused(tmp_path / "bomb.dcm") == "the compressed image does not have the size that the tags say"


def test_damaged_run_lengths_are_refused(tmp_path, capfd):
    ds = pydicom.dcmread(write(tmp_path / "a.dcm"))
    ds.compress(RLELossless)
    ds.save_as(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    start = content.index(struct.pack("<II", 2, 64))  # two segments, the first behind the header
    for at in range(start + 64, len(content) - 8, 7):
        (tmp_path / "b.dcm").write_bytes(content[:at] + b"\x7f" + content[at + 1 :])
        with contextlib.suppress(ImageError):
            assert read_image(tmp_path / "b.dcm").shape == RAMP.shape
    assert capfd.readouterr().err == ""


def test_transfer_syntaxes_without_a_decoder(tmp_path):
    assert "the file is deflated" in refused(get_testdata_file("image_dfl.dcm"))
    assert pydicom.dcmread(get_testdata_file("image_dfl.dcm")).file_meta.TransferSyntaxUID == (
        DeflatedExplicitVRLittleEndian
    )
    content = write(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"))
    assert "transfer syntax is not supported" in refused(tmp_path / "a.dcm")


def test_the_missing_extra_is_named(tmp_path, monkeypatch, cli, run):
    path = write(tmp_path / "a.dcm")
    monkeypatch.setitem(__import__("sys").modules, "cvrnet.data.dicom", None)
    assert 'pip install "cvrnet[dicom]"' in refused(path)
    status, _, err = cli("predict", run, path)
    assert status == 1
    assert 'pip install "cvrnet[dicom]"' in err


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_are_read_or_refused(tmp_path, data):
    tags = {"WindowCenter": 9, "WindowWidth": 9, "SOPInstanceUID": "1.2.3"}
    content = bytearray(write(tmp_path / "a.dcm", RAMP[:8, :8], **tags).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.dcm").write_bytes(content[: data.draw(st.integers(132, len(content)))])
    try:
        assert read_image(tmp_path / "a.dcm").dtype == np.uint8
    except ImageError:
        refused(tmp_path / "a.dcm")


def test_pydicom_stays_quiet(tmp_path, capfd):
    path = write(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"DX", b"D\xff"))
    handler = logging.StreamHandler(stream := io.StringIO())
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for name in ("badVR.dcm", "nested_priv_SQ.dcm"):
                refused(get_testdata_file(name))
            read_image(get_testdata_file("SC_rgb_jpeg.dcm"))  # of implicit VR, against its transfer syntax
            refused(path)
            list(arrange([Path(get_testdata_file("badVR.dcm"))]))
    finally:
        logging.getLogger().removeHandler(handler)
    assert not told
    assert stream.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def labelled(tmp_path: Path) -> Path:
    for i, (label, patient, hospital) in enumerate([("A", "1", "x"), ("B", "1", "x"), ("A", "2", ""), ("B", "", "x")]):
        (tmp_path / label).mkdir(exist_ok=True)
        tags = {"PatientID": patient, "InstitutionName": hospital, "Manufacturer": "M"}
        write(tmp_path / label / (f"{i}.dcm" if i else "IM0001"), RAMP + i, 13, **tags)
    (tmp_path / "A" / "README").write_text("no image")
    return tmp_path


def test_patient_and_source_are_pseudonyms_of_the_tags(tmp_path, monkeypatch):
    records = {r.name: r for r in read_records(labelled(tmp_path))}
    first, third, second, nobody = (records[name] for name in ("A/IM0001", "A/2.dcm", "B/1.dcm", "B/3.dcm"))
    assert first.patient_id == second.patient_id == pseudonym("1", "p") != third.patient_id
    assert first.source == second.source == nobody.source == pseudonym("x", "s") != third.source == pseudonym("M", "s")
    assert nobody.patient_id == ""
    assert len(first.patient_id) == 17

    monkeypatch.setenv(KEY, "another")
    assert read_records(tmp_path)[1].patient_id != first.patient_id
    monkeypatch.setenv(PLAIN, "plain")
    assert read_records(tmp_path)[1].patient_id == "1"


def test_a_manifest_has_the_word_and_splits_are_checked(tmp_path):
    records = read_records(labelled(tmp_path))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,label,patient_id\nA/IM0001,A,mine\nB/1.dcm,B,\nA/2.dcm,A,\nB/3.dcm,B,mine\n")
    said: list[str] = []
    found = [r.patient_id for r in read_records(manifest, say=said.append)]
    assert found == [pseudonym("1", "p"), pseudonym("1", "p"), pseudonym("2", "p"), pseudonym("1", "p")]
    assert said == ["patient_id is given for 2 of 4 images, so DICOM's PatientID is used, too"]
    manifest.write_text("path,label,patient_id,split\nA/IM0001,A,mine,train\nB/1.dcm,B,,test\nA/2.dcm,A,,train\n")
    with pytest.raises(ValueError, match="in two splits"):
        read_records(manifest)
    manifest.write_text("path,label,split\nA/IM0001,A,train\nB/1.dcm,B,test\n")
    with pytest.raises(ValueError, match="in two splits"):
        read_records(manifest)
    manifest.unlink()
    write_manifest(manifest, records)
    assert [(r.patient_id, r.source) for r in read_records(manifest)] == [(r.patient_id, r.source) for r in records]


def test_a_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = pseudonym("1", "p")
    assert pseudonym("1", "p") == first != pseudonym("2", "p")
    (file,) = (tmp_path / "cvrnet").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        pseudonym("1", "p")


def volume(folder: Path, patient: str, series: str, count: int = 4, **tags) -> Path:
    """A series whose files' names, numbers and positions are in three different orders."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(series))
    for i in range(count):
        hu = rng.integers(-1000, 300, (48, 48))
        where = {"ImagePositionPatient": [0, 0, -i * 5.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        ct(folder / f"{i}", hu, PatientID=patient, SeriesInstanceUID=series, InstanceNumber=i % 2, **where, **tags)
    return folder


def test_slices_are_in_the_order_of_their_positions(tmp_path):
    folder = volume(tmp_path / "s", SECRET, "1.2.3")
    scout = write(folder / "9", Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    slices = list(arrange(sorted(folder.iterdir())))
    assert [s.path.name for s in slices if s.volume] == ["3", "2", "1", "0"]
    assert [s.path for s in slices if not s.volume] == [scout]
    assert {s.patient for s in slices if s.volume} == {pseudonym(SECRET, "p")}

    many = write(tmp_path / "many.dcm", np.stack([RAMP] * 11), Modality="CT", WindowCenter=1, WindowWidth=9)
    assert [s.path.name for s in arrange([many])] == [f"many.dcm#{i}" for i in range(1, 12)]
    assert read_image(f"{many}#11").shape == RAMP.shape
    assert "frame 12 does not exist" in refused(f"{many}#12")
    assert refused(f"{tmp_path}/absent.dcm#1") == "No such file or directory"


def test_predict_gives_each_slice_and_each_patient(tmp_path, cli, run):
    volume(tmp_path / "in" / "a", SECRET, "1.2.3")
    volume(tmp_path / "in" / "b", SECRET, "1.2.4567", count=2)
    frames = np.random.default_rng(0).integers(0, 4000, (3, 48, 48)).astype(np.uint16)
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "PatientID": "another"}
    write(tmp_path / "in" / "c.dcm", frames, **tags)
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "in" / "chest.png")
    status, out, err = cli("predict", run, tmp_path / "in", "--format", "csv", "--heads", "--uncertainty", "--no-gate")
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    volumes = ["slice"] * 6 + ["series"] * 2 + ["patient"], ["slice"] * 3 + ["patient"]
    assert [row["unit"] for row in rows] == [*volumes[1], "image", *volumes[0]]
    assert SECRET not in out

    def mean(chosen: list[dict[str, str]], column: str) -> float:
        return float(np.mean([float(row[column]) for row in chosen]))

    slices = [row for row in rows if row["unit"] == "slice" and row["patient_id"] == pseudonym(SECRET, "p")]
    (patient,) = [r for r in rows if r["unit"] == "patient" and r["patient_id"] == pseudonym(SECRET, "p")]
    series = [row for row in rows if row["unit"] == "series"]
    assert patient["path"] == str(tmp_path / "in")
    assert [row["path"] for row in series] == [str(tmp_path / "in" / name) for name in "ab"]
    for column in [c for c in patient if c.startswith(("prob_", "head_"))]:
        assert float(patient[column]) == pytest.approx(mean(slices, column))
        assert float(series[0][column]) == pytest.approx(mean(slices[:4], column))
    best = max((c for c in patient if c.startswith("prob_")), key=lambda c: float(patient[c]))
    assert patient["prediction"] == best.removeprefix("prob_")

    status, windowed, _ = cli("predict", run, tmp_path / "in" / "a", "--format", "csv", "--window", "lung")
    assert status == 0
    assert windowed.splitlines()[1] not in out
    (tmp_path / "in" / "a" / "0").write_bytes((tmp_path / "in" / "a" / "0").read_bytes()[:-99])
    status, out, err = cli("predict", run, tmp_path / "in" / "a", "--format", "csv")
    assert status == 1
    assert "truncated" in err
    assert [row["unit"] for row in csv.DictReader(io.StringIO(out))].count("patient") == 1


def test_no_tag_goes_into_a_run(tmp_path, cli, phantoms):
    """Phantoms as DICOM files, trained on, evaluated and explained; then every file that was written is searched."""
    for record in read_records(phantoms):
        (tmp_path / "data" / record.label).mkdir(parents=True, exist_ok=True)
        tags = {"PatientID": f"{SECRET}{record.patient_id}", "InstitutionName": f"{SECRET}{record.source}"}
        write(tmp_path / "data" / record.label / f"{record.path.stem}.dcm", read_image(record.path), 8, **tags)
    (path,) = list((tmp_path / "data").rglob("*.dcm"))[:1]
    options = ["--model", "test_resnet", "--no-pretrained", "--img-size", 64, "--epochs", 1, "--cache-dir"]
    out = tmp_path / "out"
    texts = [
        cli("train", tmp_path / "data", "-o", out / "run", *options, tmp_path / "cache"),
        cli("evaluate", out / "run", tmp_path / "data", "-o", out / "evaluation"),
        cli("explain", out / "run", path, "-o", out / "maps"),
    ]
    assert [status for status, *_ in texts] == [0, 0, 0], texts
    assert SECRET not in str(texts)
    files = [file for file in out.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    with open(out / "run" / "split.csv", newline="") as file:
        assert all(row["patient_id"].startswith("p") and row["source"].startswith("s") for row in csv.DictReader(file))


@pytest.mark.realdata
def test_real_radiographs(odd, tmp_path):
    light, inverted = (read_image(odd / f"monochrome{kind}-jpeg.dcm") for kind in (2, 1))
    ds = pydicom.dcmread(odd / "monochrome2-jpeg.dcm")
    from pydicom.encaps import get_frame

    with Image.open(io.BytesIO(get_frame(ds.PixelData, 0, number_of_frames=1))) as image:
        assert np.abs(light.astype(int) - np.array(image)).max() <= 1
    np.testing.assert_array_equal(inverted, 255 - light)
    shutil.copy(odd / "monochrome2-jpeg.dcm", tmp_path / "without-suffix")
    np.testing.assert_array_equal(read_image(tmp_path / "without-suffix"), light)
