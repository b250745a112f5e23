"""Models on the same images: the page, the table and the evaluations; what cannot be compared is refused."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from cvrnet.errors import UserError
from cvrnet.metrics.paired_models import compare_accuracy
from cvrnet.report.paired import paired_rows
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from cvrnet.runs.predictions import PredictionTable
from cvrnet.workflows import compare


@pytest.fixture(scope="module")
def other(run, tmp_path_factory):
    """The same model with its classes in another order, and other answers."""
    folder = tmp_path_factory.mktemp("other") / "other"
    model = load_checkpoint(run)
    names = model.pretrained_cfg["label_names"]
    for block in model.head.blocks:
        for parameter in (block.classifier.weight, block.classifier.bias):
            parameter.data = parameter.data.flip(0) + 0.1
    save_checkpoint(model, folder, names[::-1])
    return folder


@pytest.fixture(scope="module")
def compared(run, other, phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "out"
    return folder, compare([str(run), str(other)], phantoms, folder, audit=False, maps=False)


def test_table_and_pages(compared, run, other, phantoms):
    folder, result = compared
    classes = json.loads((run / "run.json").read_text())["classes"]
    first, second = (PredictionTable.read([folder / name], classes, "test") for name in ("run", "other"))
    assert first.names == second.names
    with (folder / "tables" / "paired.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["score"], row["class"]): row for row in csv.DictReader(file)}
    assert set(rows) == {("accuracy", ""), ("auc_macro", ""), *(("auc", name) for name in classes)}
    right = [table.guesses == table.labels for table in (second, first)]
    expected = compare_accuracy(*right, first.groups)
    assert {key: float(rows["accuracy", ""][key]) for key in expected} == pytest.approx(expected)
    assert [row["model"] for row in result["paired"]] == ["other"] * len(rows)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Obuchowski 1998" in page  # the phantoms' patients have several images
    assert "were used to train or validate this model" in page
    assert all((folder / name / "report.html").is_file() for name in ("run", "other"))


def test_classes_in_another_order(compared, run):
    """The second model's probabilities stand below the first one's classes."""
    folder, _ = compared
    classes = json.loads((run / "run.json").read_text())["classes"]
    own = json.loads((folder / "other" / "run.json").read_text())["classes"]
    assert own == classes[::-1]
    table = PredictionTable.read([folder / "other"], own, "test")
    turned = table.with_classes(classes)
    assert [turned.classes[k] for k in turned.labels] == [table.classes[k] for k in table.labels]
    np.testing.assert_array_equal(turned.probabilities[:, 0], table.probabilities[:, -1])
    assert turned.guesses.tolist() == [len(classes) - 1 - k for k in table.guesses]


def test_models_without_a_common_image(compared):
    folder, _ = compared
    table = PredictionTable.read(
        [folder / "run"], json.loads((folder / "run" / "run.json").read_text())["classes"], "test"
    )
    half = len(table.names) // 2
    assert paired_rows({"one": table.rows(range(half)), "two": table.rows(range(half, len(table.names)))}) == []


def test_command(cli, run, other, phantoms, tmp_path):
    status, out, err = cli("evaluate", run, other, phantoms, "-o", tmp_path / "out", "--no-audit", "--no-maps")
    assert status == 0
    assert out.split()[:3] == ["model", "score", "class"]
    assert "the evaluation of each model is beside it" in err
    status, _, err = cli("evaluate", run, other, phantoms, "-o", tmp_path / "out", "--no-audit", "--no-maps")
    assert (status, "--overwrite replaces it" in err) == (1, True)
    arguments = ("-o", tmp_path / "out", "--no-audit", "--no-maps", "--overwrite")
    assert cli("evaluate", other, run, phantoms, *arguments)[0] == 0
    assert cli("evaluate", run)[0] == 2


def test_what_cannot_be_compared(run, other, phantoms, tmp_path):
    output = tmp_path / "out"

    def refused(*models):
        with pytest.raises(UserError) as caught:
            compare([str(model) for model in models], phantoms, output)
        assert not output.exists()
        return str(caught.value)

    assert refused(run) == "a comparison needs two models or more"
    assert refused(run, run) == f"{run} is given twice; expected different models"
    assert refused(run, f"{run}/") == f"{run} is given twice; expected different models"
    assert "no such folder" in refused(run, tmp_path / "nothing")
    renamed = shutil.copytree(other, tmp_path / "renamed")
    config = json.loads((renamed / "config.json").read_text())
    config["label_names"] = ["CVP", "NCP", "NOR", "TB"]
    model = load_checkpoint(other, num_classes=4)
    save_checkpoint(model, renamed, config["label_names"])
    assert "has the classes CVP, NCP, NOR, TB" in refused(run, renamed)
