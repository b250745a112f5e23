"""Bags of pictures: which pictures are one study, volumes as studies, and what cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cvrnet.data import DataError, ImageCache, ImageError, read_image, read_records, scan_records, write_manifest
from cvrnet.data.phantom_studies import write_studies
from cvrnet.data.record import Record
from cvrnet.data.studies import Study, group_studies, pictures_of
from cvrnet.data.volumes import expand_volumes
from cvrnet.errors import UserError
from tests.data.test_dicom import RAMP, ct, volume, write
from tests.data.test_phantoms import files, rows

nibabel = pytest.importorskip("nibabel")


def record(name: str, label: str = "NOR", patient: str = "p", **cells: str) -> Record:
    return Record(Path("/data") / name, name, label, patient_id=patient, metadata=cells, where="m.csv:2")


def test_pictures_of_a_study_are_in_the_order_of_days() -> None:
    given = [record("c", study_id="s", day="9", sex="F"), record("a", study_id="s", day="-2.5", sex="F"),
             record("b", study_id="t", day="1", sex="F", kvp="80")]  # fmt: skip
    studies, problems = group_studies(given, "study")
    assert problems == []
    assert [(s.name, [p.name for p in s.pictures], s.days) for s in studies] == [
        ("s", ["a", "c"], (11.5, 0.0)),
        ("t", ["b"], (0.0,)),
    ]
    assert studies[0].label == "NOR"
    assert studies[0].metadata == {"study_id": "s", "sex": "F"}
    (patient,), _ = group_studies(given, "patient")
    assert [p.name for p in patient.pictures] == ["a", "b", "c"]
    assert pictures_of([patient, given[0]]) == [*patient.pictures, given[0]]


def test_one_study_id_of_two_patients_is_two_studies() -> None:
    studies, _ = group_studies([record("a", study_id="1"), record("b", patient="q", study_id="1")], "study")
    assert [s.name for s in studies] == ["p/1", "q/1"]


def test_bags_that_cannot_be_used_are_named_and_the_rest_goes_on() -> None:
    given = [
        record("a", study_id="good"),
        record("b", study_id="two"),
        record("c", "CVP", study_id="two"),
        record("d", study_id=""),
        *(record(f"e{i}", study_id="many") for i in range(601)),
        replace(record("f", study_id="apart"), split="train"),
        replace(record("g", study_id="apart"), split="test"),
    ]
    studies, problems = group_studies(given, "study")
    assert [s.name for s in studies] == ["good"]
    assert problems == [
        "m.csv:2: d: no study_id: left out",
        "study two: 2 labels (CVP, NOR); expected one: left out",
        "study many: 601 pictures; expected at most 600: left out",
        "study apart: pictures in two splits: left out",
    ]
    days = [record("a", study_id="s", day="1"), record("b", study_id="t", day="soon"), record("c", study_id="u")]
    studies, problems = group_studies(days, "study")
    assert [s.name for s in studies] == ["s"]
    assert problems[0] == "study t: b: day 'soon' is not a number: left out"
    assert problems[1] == "study u: c: day '' is not a number: left out"


def test_one_line_for_a_data_set_without_bags() -> None:
    with pytest.raises(UserError, match="--unit study needs the manifest's column study_id, or volumes"):
        group_studies([record("a")], "study")
    with pytest.raises(UserError, match="column patient_id"):
        group_studies([record("a", patient="")], "patient")
    with pytest.raises(UserError, match=r"mixes modalities \(CT 1, radiograph 2\); expected one"):
        group_studies([record(m, study_id=m, modality=m) for m in ("CT", "dx", "CR")], "study")


@pytest.mark.parametrize(("kind", "labels"), [("volumes", "NOR NCP"), ("follow-up", "better worse")])
def test_phantoms_are_exact_and_marked(kind, labels, tmp_path) -> None:
    manifest = write_studies(tmp_path, kind, 12, size=64, seed=3)
    studies, problems = group_studies(read_records(manifest), "study")
    assert problems == []
    assert {s.label for s in studies} == set(labels.split())
    assert len({s.patient_id for s in studies}) == len(studies) == 12
    for study in studies:
        marked = [p.lesion_mask is not None for p in study.pictures]
        if kind == "volumes":
            assert 20 <= len(marked) <= 60
            assert (3 <= sum(marked) <= 6) if study.label == "NCP" else not any(marked)
        else:
            assert 3 <= len(marked) <= 6
            assert all(marked)
            assert list(study.days) == sorted(study.days, reverse=True)
            assert study.days[0] > study.days[1]
    one = files(tmp_path)
    with pytest.raises(UserError, match="--overwrite replaces them"):
        write_studies(tmp_path, kind, 13, size=64, seed=3)
    write_studies(tmp_path, kind, 13, size=64, seed=3, overwrite=True)
    two = files(tmp_path)
    assert len(two) > len(one)
    assert all(two[name] == content for name, content in one.items() if name != "manifest.csv")


def test_follow_up_in_the_opposite_order_is_the_other_label(tmp_path) -> None:
    from cvrnet.data import phantom_studies

    severities: dict[str, list[float]] = {}
    original = phantom_studies.draw_film

    def draw(label, *, patient, severity, **further):
        severities.setdefault(str(patient), []).append(severity)
        return original(label, patient=patient, severity=severity, **further)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom_studies, "draw_film", draw)
        manifest = write_studies(tmp_path / "set", "follow-up", 12, size=64)
    labels = {row["patient_id"]: row["label"] for row in rows(manifest)}
    for patient, found in severities.items():
        assert found == sorted(found, reverse=labels[f"p{int(patient):05d}"] == "better")


def nifti(path: Path, hu: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), np.eye(4) if affine is None else affine), path)
    return path


def phantom_hu(depth: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 400, (16, 20, depth))


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIL"])
def test_slices_of_nifti_have_the_window_and_the_side_of_dicom(name, axes, tmp_path) -> None:
    hu = phantom_hu()  # right, anterior, superior
    stored = nibabel.Nifti1Image(hu.astype(np.int16), np.eye(4))
    turned = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    nibabel.save(stored.as_reoriented(turned), tmp_path / name)
    # The same slice as DICOM: columns go to the patient's left, rows to the back.
    expected = read_image(ct(tmp_path / "4.dcm", hu[:, :, 4].T[::-1, ::-1]), window="lung")
    found = read_image(f"{tmp_path / name}#5")
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    soft = read_image(ct(tmp_path / "soft.dcm", hu[:, :, 4].T[::-1, ::-1]), window="soft-tissue")
    np.testing.assert_allclose(read_image(f"{tmp_path / name}#5", window="soft-tissue"), soft, atol=1)
    assert read_image(f"{tmp_path / name}#5", "RGB").shape == (20, 16, 3)


def test_scaled_nifti_is_in_hounsfield_units(tmp_path) -> None:
    hu = phantom_hu()
    image = nibabel.Nifti1Image(hu.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2, -10)
    nibabel.save(image, tmp_path / "a.nii")  # the stored values are those given, and mean 2 hu - 10
    nifti(tmp_path / "b.nii", nibabel.load(tmp_path / "a.nii").get_fdata())
    one, other = (read_image(f"{tmp_path}/{name}.nii#3") for name in "ab")
    np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


def test_one_line_for_what_is_no_ct(tmp_path) -> None:
    def reason(path: object) -> str:
        with pytest.raises(ImageError) as error:
            read_image(str(path))
        return error.value.reason

    good = nifti(tmp_path / "good.nii", phantom_hu())
    assert reason(good) == "a volume of 9 slices, not an image; --unit study reads it as a study"
    assert reason(f"{good}#10") == "slice 10 does not exist: expected 1 to 9"
    assert "not a CT in Hounsfield units" in reason(f"{nifti(tmp_path / 'mri.nii', phantom_hu() + 1000)}#1")
    assert "expected a volume" in reason(f"{nifti(tmp_path / 'flat.nii', phantom_hu()[:, :, 0])}#1")
    (tmp_path / "cut.nii").write_bytes(good.read_bytes()[:2000])
    assert "damaged" in reason(f"{tmp_path / 'cut.nii'}#9")
    (tmp_path / "text.nii.gz").write_text("hello")
    assert "damaged NIfTI" in reason(f"{tmp_path / 'text.nii.gz'}#1")


def test_volumes_are_studies(tmp_path) -> None:
    """A NIfTI file, a series of DICOM files in a folder, a multi-frame file, and slices that a manifest joins."""
    nifti(tmp_path / "set" / "NOR" / "a.nii.gz", phantom_hu(30))
    volume(tmp_path / "set" / "NOR" / "series", "12345", "1.2.3", count=5)
    frames = np.stack([RAMP] * 11).astype(np.uint16)
    write(tmp_path / "set" / "NCP.dcm", frames, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    (tmp_path / "set" / "NCP").mkdir()
    (tmp_path / "set" / "NCP.dcm").rename(tmp_path / "set" / "NCP" / "many.dcm")
    records, problems = scan_records(tmp_path / "set", volumes=True)
    pictures, further = expand_volumes(records, 7)
    assert problems == further == []
    studies, wrong = group_studies(pictures, "study")
    assert wrong == []
    found = {s.name.partition("/")[2].partition("/")[0]: s for s in studies}
    assert {name: len(s.pictures) for name, s in found.items()} == {"a.nii.gz": 7, "series": 5, "many.dcm": 7}
    numbers = [int(p.name.rpartition("#")[2]) for p in found["a.nii.gz"].pictures]
    assert numbers == [1, 6, 11, 15, 20, 25, 30]
    assert [p.path.name for p in found["series"].pictures] == ["4", "3", "2", "1", "0"]
    assert found["series"].patient_id
    assert found["many.dcm"].label == "NCP"
    cache = ImageCache((32, 32), folder=tmp_path / "cache", ct_window="lung")
    assert cache.build(pictures_of(studies)) == []
    assert cache.load(found["a.nii.gz"].pictures[1].path).shape == (32, 32, 1)
    assert "a.nii.gz" not in {r.path.name for r in read_records(tmp_path / "set")}  # without volumes, no image


def test_a_manifest_names_volumes(tmp_path) -> None:
    nifti(tmp_path / "a.nii", phantom_hu(30))
    volume(tmp_path / "series", "patient", "1.2.3", count=5)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "m.csv").write_text("path,label,patient_id\na.nii,NOR,1\nseries,NCP,2\nnothing,NCP,3\n")
    records, problems = scan_records(tmp_path / "m.csv", volumes=True)
    assert problems == []
    pictures, problems = expand_volumes(records, 64)
    assert problems == ["m.csv:4: nothing: an empty study: a folder without images"]
    studies, _ = group_studies(pictures, "study")
    assert [(s.name, s.label, s.patient_id, len(s.pictures)) for s in studies] == [
        ("a.nii", "NOR", "1", 30),
        ("series", "NCP", "2", 5),
    ]
    with pytest.raises(DataError, match="not a regular file"):
        read_records(tmp_path / "m.csv")


def test_scout_views_are_left_out(tmp_path) -> None:
    folder = volume(tmp_path / "set" / "scan", "12345", "1.2.3", count=3)
    tags = {"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.4"}
    write(folder / "scout", PatientID="12345", **tags)
    (tmp_path / "set" / "m.csv").write_text("path,label\nscan,NOR\n")
    pictures, problems = expand_volumes(scan_records(tmp_path / "set" / "m.csv", volumes=True)[0], 64)
    assert (len(pictures), problems) == (3, [])
    assert {p.metadata["modality"] for p in pictures} == {"CT"}


def test_two_series_and_two_sizes_are_named(tmp_path) -> None:
    volume(tmp_path / "one", "p", "1.2.3", count=2)
    volume(tmp_path / "two", "p", "1.2.4", count=3)
    ct(tmp_path / "odd.dcm", np.zeros((30, 48), int), PatientID="q", SeriesInstanceUID="9")
    ct(tmp_path / "even.dcm", np.zeros((48, 48), int), PatientID="q", SeriesInstanceUID="9")
    lines = ["path,label,patient_id,study_id,modality"]
    lines += [f"one/{i},NOR,1,s," for i in range(2)] + [f"two/{i},NOR,1,s," for i in range(3)]
    lines += [f"{name}.dcm,NCP,2,t," for name in ("odd", "even")]
    for i, size in enumerate([(40, 40), (40, 40), (40, 42)]):
        Image.new("L", size).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,NCP,3,{'u' if i else 'v'},CT")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    records, _ = scan_records(tmp_path / "m.csv", volumes=True)
    pictures, problems = expand_volumes(records, 64)
    assert problems == [
        "study s: 2 series; expected one: left out",
        "study t: slices of two sizes, 48 x 30 and 48 x 48: left out",
        "study u: slices of two sizes, 40 x 40 and 40 x 42: left out",
    ]
    assert [s.name for s in group_studies(pictures, "study")[0]] == ["v"]


def test_a_study_without_some_pictures_keeps_days_to_its_last() -> None:
    study = Study(Path("c"), "s", pictures=tuple(map(record, "abc")), days=(7.0, 2.0, 0.0))
    kept = study.keep([True, True, False])
    assert [p.name for p in kept.pictures] == ["a", "b"]
    assert kept.days == (5.0, 0.0)


def test_a_manifest_of_phantoms_can_be_written_again(tmp_path) -> None:
    manifest = write_studies(tmp_path / "set", "follow-up", 12, size=64)
    records = read_records(manifest)
    write_manifest(tmp_path / "set" / "again.csv", records)
    again = read_records(tmp_path / "set" / "again.csv")
    assert [replace(r, where="") for r in again] == [replace(r, where="") for r in records]
