"""What split.csv says of an image, or of its patient."""

from pathlib import Path

import pytest

from cvrnet.data import Record
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.runs.layout import INDEPENDENT
from cvrnet.runs.split_table import SplitTable, split_row


def record(name, label="NOR", source="a", patient=""):
    return Record(Path(name), name, label, source, patient)


@pytest.fixture
def table(tmp_path):
    rows = [split_row(record("x", patient="p"), 1), split_row(record("y"), 2), split_row(record("z"), INDEPENDENT)]
    write_csv(tmp_path / "split.csv", rows)
    return SplitTable.read(tmp_path / "split.csv")


@pytest.mark.parametrize(
    ("asked", "fold"),
    [
        (record("x", patient="p"), "1"),
        (record("another-view", patient="p"), "1"),  # by its patient
        (record("another-view", source="b", patient="p"), "1"),  # one person over all sources
        (record("y"), "2"),
        (record("y", source="b"), None),  # a file of the same name in another data set
        (record("new"), None),  # no patient is not a patient
    ],
)
def test_an_image_goes_by_itself_or_by_its_patient(table, asked, fold):
    assert table.fold_of(asked) == fold


def test_rows_of_other_folds_are_left(table):
    rest = table.without({"2", INDEPENDENT})
    assert rest.count([record("x", patient="p"), record("w", patient="p"), record("y"), record("z")]) == 2
    assert rest.count([record("x", label="CVP", source="b")]) == 1  # by its path alone
    assert rest.sources == {"a"}


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "split.csv").write_text("path,label\nx,NOR\n")
    with pytest.raises(UserError, match=r"split\.csv is damaged: it has no column source, patient_id, fold"):
        SplitTable.read(tmp_path / "split.csv")


def test_a_table_of_an_older_version_has_the_same_patients(tmp_path):
    write_csv(tmp_path / "split.csv", [{**split_row(record("x"), 1), "patient_id": p} for p in ("12.0", "nan", "3")])
    table = SplitTable.read(tmp_path / "split.csv")
    assert table.fold_of(record("new", patient="12")) == "1"
    assert table.fold_of(record("new", patient="nan")) is None


def test_other_rows_keep_their_patients_when_folds_are_left_out():
    table = SplitTable([split_row(record("x", patient="0"), "1"), split_row(record("y", patient="1"), "2")])
    assert table.without({"2"}).fold_of(record("new", patient="0")) == "1"


def test_an_image_has_one_name_in_every_unicode_form():
    table = SplitTable([split_row(record("e\u0301.png"), "1")])
    assert table.fold_of(record("\u00e9.png")) == "1"
    assert table.count([record("\u00e9.png", label="CVP")]) == 1
