"""Which columns of a manifest are findings, and what is said of those that a single cell keeps from being one."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrnet.audit import audit, read_audited
from cvrnet.data import DataError
from cvrnet.data.finding_columns import finding_columns, odd_columns, plain_cell
from cvrnet.data.findings import finding_truth, learnable_findings
from cvrnet.data.overview import labels_of
from cvrnet.data.record import Record
from cvrnet.errors import UserError
from cvrnet.workflows.findings import with_findings
from tests.support.films import CONFIG, write_films


def column(*cells: str, name: str = "Edema") -> list[Record]:
    return [
        Record(Path(f"/{i}.png"), f"{i}.png", patient_id=f"p{i}", metadata={name: cell}, where=f"m.csv:{i + 2}")
        for i, cell in enumerate(cells)
    ]


USUAL = ["1", "0"] * 10


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.0", 1),
        (" 1 ", 1),
        ("1.00", 1),
        ("-1.0", np.nan),
        ("NaN", np.nan),
        ("N/A", np.nan),
        ("-0.0", 0),
        ("", np.nan),
    ],
)
def test_other_spellings_of_a_cell_are_read(cell, value):
    records = column(cell, *USUAL)
    assert (finding_columns(records), odd_columns(records)) == (["Edema"], {})
    np.testing.assert_array_equal(finding_truth(records[:1], ["Edema"]), [[value]])
    assert labels_of(records)[0] == (("Edema",) if value == 1 else ())


@pytest.mark.parametrize("cell", ["maybe", "?", "True", "yes", "2", "0.5", "1,0", "inf"])
def test_an_odd_cell_is_named_with_its_column(cell):
    records = column(*USUAL, cell)
    assert finding_columns(records) == []
    line = f"column Edema is not a finding: it has {cell!r} (m.csv:22); expected 1, 0, -1 or empty"
    assert odd_columns(records) == {"Edema": line}
    with pytest.raises(UserError) as told:
        learnable_findings(records)
    assert str(told.value) == f"the data set has no findings: {line}"
    with pytest.raises(DataError) as told:
        learnable_findings(records, ["Edema"])
    assert str(told.value) == f"m.csv:22: 20.png: Edema is {cell!r}; expected 1, 0, -1 or empty"


def test_columns_of_words_and_the_number_of_odd_cells_are_told():
    assert odd_columns(column("True", "False", "True"))["Edema"].startswith(
        "column Edema is not a finding: it has 'True' (m.csv:2), and 2 more such cells; "
    )
    assert "(m.csv:2), and one more such cell; " in odd_columns(column("maybe", "maybe", *USUAL))["Edema"]


@pytest.mark.parametrize(
    "cells", [["M", "F"], ["1", "2"], ["0", "1", "2", "3"], ["low", "high", "1"], ["31", "1", "7"]]
)
def test_other_columns_are_not_meant(cells):
    assert odd_columns(column(*cells)) == {}


@pytest.mark.parametrize("name", ["age", "day", "follow_up", "No Finding"])
def test_columns_that_are_never_findings_are_not_meant(name):
    assert odd_columns(column(*USUAL, "2", name=name)) == {}


@given(
    st.lists(st.sampled_from(["1", "0", "-1", "", "1.0", " 0", "nan", "maybe", "2", "yes"]), min_size=1, max_size=30)
)
def test_no_column_is_both(cells):
    records = column(*cells)
    assert not {*finding_columns(records)} & odd_columns(records).keys()


@given(st.text(max_size=8))
def test_plain_cells_stay_as_they_are(cell):
    assert plain_cell(plain_cell(cell)) == plain_cell(cell)


def with_odd_cell(folder: Path, *names: str) -> Path:
    """A manifest of films whose first row has the cell ``maybe`` in these columns."""
    manifest = write_films(folder, 60, columns=True)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= dict.fromkeys(names, "maybe")
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def test_training_and_the_audit_tell_of_a_column_that_they_leave_out(tmp_path):
    records, problems, names = read_audited(with_odd_cell(tmp_path / "data", "Bright"))
    assert names == ["Left", "Rare"]
    line = "olumn Bright is not a finding: it has 'maybe' (manifest.csv:2); expected 1, 0, -1 or empty"
    found = {finding.code: finding for finding in audit(records, problems, names=names, features=False)}
    assert (found["odd-column:Bright"].severity, found["odd-column:Bright"].sentence) == ("warning", f"C{line}.")
    assert not [code for code in found if code.startswith("odd-column:") and code != "odd-column:Bright"]
    having = sum(record.label != "No Finding" for record in records)
    assert (
        f"the {having} images with any finding to the {len(records) - having} without" in found["any-finding"].sentence
    )
    said: list[str] = []
    with_findings(records_without_labels(records), CONFIG, None, said.append)
    assert f"Warning: c{line}" in said


def records_without_labels(records: list[Record]) -> list[Record]:
    return [replace(record, label="", findings=()) for record in records]


def test_an_audit_that_recognises_no_finding_says_why(tmp_path, cli):
    status, _, err = cli("audit", with_odd_cell(tmp_path / "data", "Bright", "Left", "Rare"))
    assert status == 1
    assert "column Bright is not a finding: it has 'maybe' (manifest.csv:2); expected 1, 0, -1 or empty" in err
    assert "Traceback" not in err
