"""Subgroups by the manifest's further columns: which columns make groups, and the scores of each group."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from cvrnet.report.results import read_results
from cvrnet.report.subgroups import UNKNOWN, group_columns, subgroups_section
from cvrnet.runs.predictions import PredictionTable
from cvrnet.workflows import evaluate


def columns_of(**columns):
    return {
        f"{i}.png": dict(zip(columns, values, strict=True))
        for i, values in enumerate(zip(*columns.values(), strict=True))
    }


@pytest.mark.parametrize(
    ("name", "values", "groups"),
    [
        ("sex", ["F", "M", "", "M"], ["F", "M", UNKNOWN, "M"]),
        ("in_cidc", ["yes", "", "yes", ""], ["yes", UNKNOWN, "yes", UNKNOWN]),
        ("scanner", ["A", "A", "A", "A"], None),
        ("study_id", ["1", "2", "1", "2"], None),
        ("StudyDate", [f"202401{day}" for day in range(10, 30)], None),
        ("note", [f"text {i}" for i in range(30)], None),
        ("age", [f"{age}" for age in range(10, 90)], None),
        ("PatientAge", [f"{age:03d}Y" for age in range(10, 90)], None),
    ],
)
def test_columns(name, values, groups):
    found = group_columns(columns_of(**{name: values}))
    if name.lower().endswith("age"):
        assert sorted({*found[name].values()}) == ["0 to 18", "18 to 40", "40 to 60", "60 to 80", "80 to 89"]
        assert found[name]["8.png"] == "18 to 40"  # 18 years
    elif groups is None:
        assert found == {}
    else:
        assert list(found[name].values()) == groups


@given(st.lists(st.integers(-1000, 1000), min_size=20, max_size=200, unique=True))
def test_quartiles_hold_a_quarter_each(numbers):
    groups = group_columns(columns_of(dose=[str(n) for n in numbers]))["dose"]
    sizes = [list(groups.values()).count(group) for group in {*groups.values()}]
    assert len(sizes) == 4
    assert max(sizes) - min(sizes) <= 2
    for image, group in groups.items():
        low, high = map(float, group.split(" to "))
        assert low <= numbers[int(image.removesuffix(".png"))] <= high


def test_scores_are_those_of_the_group(run, phantoms, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantoms.parent, data)
    rows = list(csv.DictReader((data / "manifest.csv").open(encoding="utf-8")))
    for i, row in enumerate(rows):
        row["sex"], row["scanner"] = "FM"[i % 2], "rare" if i == 0 else "common"
    with (data / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    evaluate(run, data / "manifest.csv", tmp_path / "out", audit=False, maps=False)
    with (tmp_path / "out" / "tables" / "subgroups.csv").open(encoding="utf-8", newline="") as file:
        found = {(row["column"], row["group"]): row for row in csv.DictReader(file)}
    assert found["scanner", "rare"]["too_small"] == "fewer than 10 patients"
    assert found["scanner", "rare"]["accuracy"] == ""
    classes = read_classes(tmp_path / "out")
    table = PredictionTable.read([tmp_path / "out"], classes, "test")
    sex = {row["path"]: row["sex"] for row in rows}
    mine = np.array([sex[name] == "F" for name in table.names])
    row = found["sex", "F"]
    assert int(row["images"]) == mine.sum()
    assert float(row["accuracy"]) == pytest.approx(sk.accuracy_score(table.labels[mine], table.guesses[mine]))
    expected = sk.balanced_accuracy_score(table.labels[mine], table.guesses[mine])
    assert float(row["balanced_accuracy"]) == pytest.approx(expected)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Subgroups</h2>" in page
    assert "too few" in page
    shutil.rmtree(data)
    assert subgroups_section(read_results(tmp_path / "out")) is None


def read_classes(folder):
    from cvrnet.runs.read import read_json

    return read_json(folder / "run.json")["classes"]
