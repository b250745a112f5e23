"""Splits: nobody on two sides, every class in every fold, the same for the same seed."""

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvrnet.data import INDEPENDENT, Record, holdout_split, make_folds, read_records
from cvrnet.data.overview import look_over
from cvrnet.data.splits import fold_sets, hold_back, holdout_sets, patient_key, refuse_shared_patients, unused_split
from cvrnet.errors import UserError
from cvrnet.runs.split_table import SplitTable, split_row
from cvrnet.training import TrainConfig, resolve_interpolation
from cvrnet.training.processes import Processes
from cvrnet.workflows.read_data import read_training_data
from tests.conftest import TINY

pytestmark = pytest.mark.filterwarnings("error")


def records_of(rows) -> list[Record]:
    return [
        Record(Path(f"/{index}.png"), f"{index}.png", label, source, patient)
        for index, (label, source, patient) in enumerate(rows)
    ]


def patients_of(records, label=None) -> set[str]:
    return {record.patient_id for record in records if label in (None, record.label)}


@st.composite
def data_sets(draw, min_patients=5, labels_a_patient=1):
    """Patients of one to four images; the first ones have one label each, to give each class `min_patients`."""
    rows = []
    for label in draw(st.sampled_from(["AB", "ABC"])):
        for number in range(draw(st.integers(min_patients, 3 * min_patients))):
            source = draw(st.sampled_from("xyz"))
            for _ in range(draw(st.integers(1, 4))):
                rows.append((label, source, f"{label}{number}"))
    for number in range(draw(st.integers(0, 6)) if labels_a_patient > 1 else 0):
        rows += [
            (label, "x", f"both{number}") for label in draw(st.lists(st.sampled_from("AB"), min_size=2, max_size=4))
        ]
    return records_of(draw(st.permutations(rows)))


@settings(deadline=None)
@given(data_sets(labels_a_patient=2), st.integers(2, 5), st.integers(0, 3))
def test_folds_are_a_partition_that_shares_no_patient_and_depends_on_the_seed_alone(records, n_folds, seed):
    folds = make_folds(records, n_folds, seed)
    assert len(folds) == len(records)
    assert set(folds) == set(range(1, n_folds + 1))
    folds_of_patient = defaultdict(set)
    for record, fold in zip(records, folds, strict=True):
        folds_of_patient[record.patient_id].add(fold)
    assert all(len(found) == 1 for found in folds_of_patient.values())
    assert folds == make_folds(records, n_folds, seed)


@settings(deadline=None)
@given(data_sets(), st.integers(0, 3))
def test_every_class_is_in_every_fold(records, seed):
    folds = make_folds(records, 5, seed)
    for label in {record.label for record in records}:
        found = {fold for record, fold in zip(records, folds, strict=True) if record.label == label}
        assert found == {1, 2, 3, 4, 5}


@settings(deadline=None)
@given(data_sets(min_patients=1), st.floats(0.05, 0.95), st.integers(0, 3))
def test_holdout_keeps_every_class_on_both_sides(records, fraction, seed):
    held = holdout_split(records, fraction, seed)
    assert held == holdout_split(records, fraction, seed)
    inside = [record for record, out in zip(records, held, strict=True) if out]
    outside = [record for record, out in zip(records, held, strict=True) if not out]
    assert not patients_of(inside) & patients_of(outside)
    for label in {record.label for record in records}:
        assert patients_of(outside, label)
        assert bool(patients_of(inside, label)) == (len(patients_of(records, label)) > 1)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.7, 0.9])
def test_holdout_is_of_the_size_asked_for(fraction):
    rng = np.random.default_rng(0)
    records = records_of(
        [("AB"[p % 2], "xy"[p % 3 == 0], f"{p}") for p in range(200) for _ in range(rng.integers(1, 4))]
    )
    held = holdout_split(records, fraction)
    assert np.mean(held) == pytest.approx(fraction, abs=0.02)
    of_a = [out for record, out in zip(records, held, strict=True) if record.label == "A"]
    assert np.mean(of_a) == pytest.approx(fraction, abs=0.03)


def test_holdout_when_patients_of_two_labels_tie_classes_together():
    records = records_of([("A", "", "1"), ("B", "", "1"), ("B", "", "2"), ("A", "", "3"), ("C", "", "4")])
    for seed in range(10):
        held = holdout_split(records, 0.2, seed)
        inside = {record.label for record, out in zip(records, held, strict=True) if out}
        outside = {record.label for record, out in zip(records, held, strict=True) if not out}
        assert {"A", "B"} <= inside
        assert {"A", "B", "C"} <= outside


def test_images_without_patient_id_are_their_own_patients():
    records = records_of([(label, "", "") for label in "AB" for _ in range(10)])
    assert sorted(Counter(make_folds(records, 5)).values()) == [4, 4, 4, 4, 4]
    with_number = records_of([(label, "", "0" if label == "A" and i == 0 else "") for label in "AB" for i in range(10)])
    assert len(make_folds(with_number, 10)) == 20


def test_seeds_give_different_splits():
    records = records_of([("AB"[p % 2], "", f"{p}") for p in range(40)])
    assert make_folds(records, seed=0) != make_folds(records, seed=1)
    assert holdout_split(records, seed=0) != holdout_split(records, seed=1)


def test_sources_are_spread_and_rare_sources_are_no_obstacle():
    records = records_of(
        [("AB"[p % 2], "xy"[p // 2 % 2], f"{p}") for p in range(100)] + [("A", "rare", "100"), ("B", "rare", "101")]
    )
    folds = make_folds(records, 5)
    count = Counter((record.label, record.source, fold) for record, fold in zip(records, folds, strict=True))
    assert {count[label, source, fold] for label in "AB" for source in "xy" for fold in range(1, 6)} <= {4, 5, 6}


@pytest.mark.parametrize(
    ("rows", "n_folds", "message"),
    [
        ([("NOR", "", f"n{p}") for p in range(9)] + [("CVP", "", f"c{p}") for p in (1, 2, 3, 3, 3)], 5,
         "class CVP has 3 patients; 5 folds need at least 5"),
        ([("A", "", "1"), ("B", "", "2")], 1, "n_folds=1; expected at least 2"),
        ([], 5, "5 folds need at least 5 patients, found 0"),
        ([("A", "", "1"), ("A", "", "2"), ("B", "", "3")], 3, "class A has 2 patients; 3 folds need at least 3"),
    ],
)  # fmt: skip
def test_impossible_folds_are_told_in_one_line(rows, n_folds, message):
    with pytest.raises(UserError) as error:
        make_folds(records_of(rows), n_folds)
    assert str(error.value) == message


@pytest.mark.parametrize(("rows", "fraction"), [([("A", "", "1")] * 3, 0.2), ([("A", "", ""), ("B", "", "")], 1.0)])
def test_impossible_holdouts_are_told_in_one_line(rows, fraction):
    with pytest.raises(
        UserError, match=r"^(a split needs at least 2 patients, found 1|fraction 1\.0 is not possible.*)$"
    ):
        holdout_split(records_of(rows), fraction)


@pytest.mark.realdata
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_real_patients_of_several_images_and_labels(cxr, seed):
    records = read_records(cxr)
    labels_of_patient = defaultdict(set)
    for record in records:
        labels_of_patient[record.patient_id].add(record.label)
    assert sum(len(labels) > 1 for labels in labels_of_patient.values()) == 29

    folds = make_folds(records, 5, seed)
    assert len({(record.patient_id, fold) for record, fold in zip(records, folds, strict=True)}) == len(
        labels_of_patient
    )
    assert max(Counter(folds).values()) - min(Counter(folds).values()) <= 10
    for column in ("label", "source"):
        of_all = Counter(getattr(record, column) for record in records)
        for fold in range(1, 6):
            inside = Counter(getattr(record, column) for record, k in zip(records, folds, strict=True) if k == fold)
            for value, count in of_all.items():
                assert inside[value] / inside.total() == pytest.approx(count / len(records), abs=0.015)

    held = holdout_split(records, 0.2, seed)
    assert np.mean(held) == pytest.approx(0.2, abs=0.01)
    assert {record.label for record, out in zip(records, held, strict=True) if out} == {"CVP", "NCP", "NOR"}


@settings(deadline=None)
@given(
    st.lists(st.integers(5, 25), min_size=2, max_size=4), st.sampled_from(["", "x", "xy"]), st.integers(2, 5), st.data()
)
def test_every_class_is_spread_evenly(counts, sources, n_folds, data):
    """Of patients with one image each, folds differ by one for each source that a class is stratified by."""
    rows = [
        (f"class {c}", sources[i % len(sources)] if sources else "", f"{c}-{i}")
        for c, n in enumerate(counts)
        for i in range(n)
    ]
    records = records_of(data.draw(st.permutations(rows)))
    folds = make_folds(records, n_folds, data.draw(st.integers(0, 99)))
    for label in {record.label for record in records}:
        count = Counter(fold for record, fold in zip(records, folds, strict=True) if record.label == label)
        numbers = [count[fold] for fold in range(1, n_folds + 1)]
        assert max(numbers) - min(numbers) <= max(len(sources), 1)


@st.composite
def any_records(draw):
    """Images of any kind: few or many patients, some without id, one id in several sources, labels and splits."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from("AB"),
                st.sampled_from(["", "x", "y"]),
                st.sampled_from(["", *map(str, range(12))]),
                st.sampled_from(["", "", "train", "val", "test"]),
            ),
            min_size=2,
            max_size=40,
        )
    )
    return [
        Record(Path(f"/{i}.png"), f"{i}.png", label, source, patient, split)
        for i, (label, source, patient, split) in enumerate(rows)
    ]


def people(records) -> set[str]:
    return {patient_key(r.patient_id, r.name) for r in records}


def check_sets(sets, records, test_source) -> None:
    """No two sets share a patient; what is held back trains nowhere; every image is in one set at most."""
    names = list(sets)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not people(sets[name]) & people(sets[other])
    for name in set(names) - {INDEPENDENT}:
        assert all(r.split != "test" and not (test_source and r.source == test_source) for r in sets[name])
    members = [r.name for part in sets.values() for r in part]
    assert len(members) == len(set(members))
    left_out = {r.name for r in records} - set(members)
    assert all(r.split == "test" and r.source != test_source for r in records if r.name in left_out)


@settings(max_examples=200, deadline=None)
@given(any_records(), st.sampled_from(["", "x", "y"]), st.integers(0, 99))
def test_no_two_sets_of_a_training_share_a_patient(records, test_source, seed):
    try:
        sets = holdout_sets(records, 0.3, seed, test_source)
    except UserError:
        return  # refused: shared patients in the data, an unknown source, or nothing left
    check_sets(sets, records, test_source)


@settings(max_examples=200, deadline=None)
@given(any_records(), st.sampled_from(["", "x", "y"]), st.integers(0, 99))
def test_no_two_sets_of_any_fold_share_a_patient(records, test_source, seed):
    try:
        inside, independent = hold_back(records, test_source)
        folds = make_folds(inside, 3, seed)
    except UserError:
        return
    for fold in (1, 2, 3):
        check_sets({**fold_sets(inside, folds, fold), INDEPENDENT: independent}, records, test_source)


def test_one_id_is_one_person_over_all_sources():
    a = [Record(Path(f"/a{i}"), f"a{i}", "AB"[i % 2], "A", str(i)) for i in range(12)]
    b = Record(Path("/b"), "b", "A", "B", "7")
    with pytest.raises(UserError, match="patient '7' is in the training images and in the independent images"):
        hold_back([*a, b], "B")
    assert SplitTable([split_row(r, "train") for r in a]).count([b]) == 1


def test_images_without_id_are_patients_of_their_own():
    refuse_shared_patients({"a": records_of([("A", "x", "")] * 2), "b": records_of([("A", "x", "")])})
    assert patient_key("", 0) != patient_key("", 1) != patient_key("0", 1)


@pytest.mark.parametrize(
    ("cells", "split", "warned"),
    [
        (("Train", "test", "VAL"), "", True),
        (("01_train", "holdout", ""), "", True),
        (("train", "val", "val"), "", False),  # no test images
        (("train", "test", "fold 1"), "", False),
        (("train", "test", "test"), "train", False),  # the data set has splits
    ],
)
def test_a_column_with_another_name_that_splits_is_pointed_out(phantoms, cells, split, warned):
    records = [
        replace(record, split=split, metadata={"sex": "F", "my subset": cell})
        for record, cell in zip(read_records(phantoms), cells, strict=False)
    ]
    warning = unused_split(records)
    assert warning.endswith("--columns split='my subset'") if warned else warning == ""


def test_a_training_and_the_overview_warn_of_it(phantoms, tmp_path):
    with phantoms.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [{**row, "subset": "test" if row["source"] == "site-b" else "training"} for row in rows]
    with (phantoms.parent / "subset.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    manifest, lines = phantoms.parent / "subset.csv", []
    config = resolve_interpolation(TrainConfig(**TINY))
    look_over(manifest, say=lines.append)
    read_training_data(manifest, config, None, None, Processes(), lambda name: lambda done, total: None, lines.append)
    warned = [line for line in lines if line.startswith("Warning: column 'subset' names training and test images")]
    assert len(warned) == 2
