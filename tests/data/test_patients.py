"""Who is a patient: one spelling of an id, and the placeholders that stand for nobody."""

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrnet.data import make_folds, read_records, scan_records
from cvrnet.data.identity import PLAIN, pseudonym
from cvrnet.data.patients import patient_ids
from tests.data.test_dicom import RAMP, write
from tests.data.test_scan import manifest, touch

NOBODY = [
    *(
        "",
        " ",
        "nan",
        "NaN",
        "None",
        "NULL",
        "N/A",
        "n.a.",
        "<NA>",
        "#N/A",
        "#REF!",
        "#VALUE!",
        "NaT",
        "-",
        "--",
        "?",
        "***",
    ),
    *(
        "-1",
        "0",
        "000000",
        "000-00-0000",
        "XX",
        "XXXX",
        "xxx-xx-xxxx",
        "unknown",
        "UNK",
        "Unknown Patient",
        "patient_id",
    ),
    *("anon", "ANONYMOUS", "Anonymized", "anonymised", "ANONYMIZED PATIENT", "Patient^Anonymous", "anonymized-id"),
    *("NO ID", "No Patient ID", "no_name", "de-identified", "REMOVED", "redacted", "not available", "missing"),
    *("not recorded", "TBD", "неизвестно", "neznámý", "不詳"),
    *("anónimo", "Anonymisiert", "anonyme", "desconocido", "unbekannt", "inconnu", "匿名"),
]
SOMEBODY = [
    "12",
    "p00001",
    "anon-17",
    "ANON001",
    "Patient 3",
    "nan1",
    "X",
    "NANA",
    "100",
    "10.20",
    "1.2.840.113",
    "noid7",
]


@pytest.mark.parametrize("text", NOBODY)
def test_a_placeholder_is_nobody(text):
    assert patient_ids([text]) == [""]
    assert pseudonym(text, "p") == ""


@pytest.mark.parametrize("text", SOMEBODY)
def test_an_id_is_somebody(text):
    assert patient_ids([text]) == [text]
    assert pseudonym(text, "p")


@given(st.integers(1, 10**12), st.integers(1, 3))
def test_a_number_is_one_id_however_a_program_writes_it(number, zeros):
    wide = "".join(chr(ord(digit) + 0xFEE0) for digit in str(number))
    spellings = [
        str(number),
        f"{number},0",
        f"0{number}",
        wide,
        f"{number}.{'0' * zeros}",
        f" {number} ",
        str(float(number)),
    ]
    assert set(patient_ids(spellings)) == {str(number)}


def test_ids_that_differ_in_case_or_dropped_zeros_are_one():
    assert patient_ids(["P1", "p1", "007", "0012", "7", "0019"]) == ["P1", "P1", "7", "0012", "7", "0019"]
    assert patient_ids(["12,000", "12"]) == ["12,000", "12"]  # not a decimal


def test_zero_is_a_patient_where_patients_are_counted_from_zero():
    assert patient_ids(["0", "1.0", "2"]) == ["0", "1", "2"]
    assert patient_ids(["0", "17", "2"]) == ["", "17", "2"]


def test_a_rounded_number_is_refused(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c.png")
    file = manifest(tmp_path, "path,label,patient_id\na.png,A,1.2E+05\nb.png,B,1e+20\nc.png,A,12E5\n")
    records, problems = scan_records(file, min_classes=1)
    assert [r.name for r in records] == ["c.png"]
    assert [problem.partition(": patient_id ")[2][:9] for problem in problems] == ["'1.2E+05'", "'1e+20' i"]


def test_ids_of_a_manifest_are_one_patient_in_one_fold(tmp_path):
    names = [f"{i}.png" for i in range(24)]
    touch(tmp_path, *names)
    rows = [f"{name},{'AB'[i % 4 // 2]},{i // 2}{'.0' * (i % 2)}" for i, name in enumerate(names)]
    records = read_records(manifest(tmp_path, "path,label,patient_id\n" + "\n".join(rows)))
    folds = make_folds(records, 3)
    assert [r.patient_id for r in records] == [str(i // 2) for i in range(24)]
    assert folds[::2] == folds[1::2]


def test_half_manifest_and_half_tags_are_one_naming(tmp_path, monkeypatch):
    """Twelve patients of two films each; the manifest names every second film, the tags all."""
    monkeypatch.setenv(PLAIN, "plain")
    rows = []
    for i in range(24):
        write(tmp_path / f"{i}.dcm", RAMP[:32] + i, 13, PatientID=f"T{i // 2}", InstitutionName="x")
        rows.append(f"{i}.dcm,{'AB'[i % 4 // 2]},{f'p{i // 2}' * (i % 2)}")
    file = manifest(tmp_path, "path,label,patient_id\n" + "\n".join(rows))
    said: list[str] = []
    records = read_records(file, say=said.append)
    assert said == ["patient_id is given for 12 of 24 images, so DICOM's PatientID is used, too"]
    assert [r.patient_id for r in records] == [pydicom.dcmread(r.path).PatientID for r in records]
    folds = make_folds(records, 3)
    assert folds[::2] == folds[1::2]


def test_what_nothing_connects_is_said(tmp_path):
    touch(tmp_path, "a.png")
    write(tmp_path / "b.dcm", PatientID="7")
    said: list[str] = []
    read_records(manifest(tmp_path, "path,label,patient_id\na.png,A,p7\nb.dcm,B,\n"), say=said.append)
    assert said[0].endswith("1 image with only a patient_id, 1 with only a PatientID: a patient may be in both groups")
