"""Operating points travel with the weights: folder, ensemble, command line, ONNX file, evaluation, card and demo."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn import metrics as sk

from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.metrics.operating_points import OperatingPoint, choose_operating_points
from cvrnet.runs.operating_points import load_operating_points, save_operating_points
from cvrnet.runs.predictions import read_predictions
from cvrnet.workflows import evaluate, train
from tests.conftest import PLAIN, TINY


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_training_chooses_on_validation_alone(run):
    points = load_operating_points([run])
    classes = json.loads((run / "run.json").read_text())["classes"]
    table = read_predictions([run], classes, "val")
    assert points == choose_operating_points(
        table.labels, table.probabilities, classes, dict.fromkeys(classes, 0.9), {}
    )
    assert {point.name for point in points} == {"sensitivity=0.9", "youden"}


def test_targets_by_class(phantoms, tmp_path):
    from cvrnet.training import TrainConfig

    config = TrainConfig(**{**TINY, "epochs": 1}, sensitivity={"CVP": 0.8}, specificity=0.95)
    train(phantoms, tmp_path / "run", config, **PLAIN)
    points = load_operating_points([tmp_path / "run"])
    assert {(p.class_name, p.target) for p in points if p.rule == "sensitivity"} == {
        ("CVP", 0.8),
        ("NCP", 0.9),
        ("NOR", 0.9),
    }
    assert {p.target for p in points if p.rule == "specificity"} == {0.95}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sensitivity": {"XYZ": 0.9}}, "a target for the class 'XYZ'; the classes are CVP, NCP, NOR"),
        ({"sensitivity": 1.5}, "sensitivity=1.5; expected from above 0 to 1"),
        ({"specificity": {"CVP": 0}}, r"specificity=\{'CVP': 0\}; expected from above 0 to 1"),
        ({"sensitivity": "high"}, "sensitivity='high'; expected from above 0 to 1"),
    ],
)
def test_wrong_targets(phantoms, tmp_path, settings, sentence):
    from cvrnet.training import TrainConfig

    with pytest.raises(UserError, match=sentence):
        train(phantoms, tmp_path / "run", TrainConfig(**TINY, **settings), **PLAIN)
    assert not (tmp_path / "run").exists()


def test_predictor_and_command(run, phantoms, cli, tmp_path):
    predictor = Predictor.from_pretrained(run)
    images = sorted(phantoms.parent.rglob("*.png"))[:6]
    thresholds = {p.class_name: p.threshold for p in predictor.operating_points if p.rule == "youden"}
    status, _, _ = cli("predict", run, *images, "--operating-point", "youden", "-o", tmp_path / "out.csv")
    assert status == 0
    for prediction, row in zip(predictor(images), rows_of(tmp_path / "out.csv"), strict=True):
        decided = predictor.positive(prediction.probabilities, "youden")
        for name, p in zip(predictor.classes, prediction.probabilities, strict=True):
            assert decided[name] == (p >= thresholds[name]) == bool(int(row[f"positive_{name}"]))
    status, _, err = cli("predict", run, images[0], "--operating-point", "sensitivity=0.5")
    assert (status, err.strip()) == (
        1,
        "Error: no operating point 'sensitivity=0.5' for every class; the model has sensitivity=0.9, youden",
    )


def test_few_validation_images_are_told_wherever_it_is_used(copy, phantoms, cli):
    weak = OperatingPoint("CVP", "youden", None, 0.4, 3, 4, 20, 30)
    save_operating_points(copy, [weak])
    image = next(phantoms.parent.rglob("*.png"))
    warning = "CVP: its thresholds rest on 4 validation images"
    _, out, err = cli("predict", copy, image, "--operating-point", "youden")
    assert f"Warning: {warning}" in err
    assert "positive_CVP" in out
    assert "positive_NOR" not in out  # it has no threshold
    evaluate(copy, phantoms, copy.parent / "evaluation", audit=False, maps=False)
    assert warning in (copy.parent / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_runs_without_them_work_as_before(copy, phantoms, cli):
    config = json.loads((copy / "config.json").read_text())
    del config["operating_points"]
    (copy / "config.json").write_text(json.dumps(config))
    image = next(phantoms.parent.rglob("*.png"))
    assert cli("predict", copy, image)[0] == 0
    status, _, err = cli("predict", copy, image, "--operating-point", "youden")
    assert (status, err.strip()) == (
        1,
        "Error: no operating point 'youden': the model has none (train and crossval choose them)",
    )
    evaluate(copy, phantoms, copy.parent / "evaluation", audit=False, maps=False)
    assert "Operating points" not in (copy.parent / "evaluation" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "points",
    [3, [3], [{"class_name": "CVP"}], "class", "twice", "nan"],
)
def test_hostile_points_are_one_line(copy, points):
    good = OperatingPoint("CVP", "youden", None, 0.4, 3, 4, 20, 30).to_dict()
    made = {"class": [{**good, "class_name": "XYZ"}], "twice": [good, good], "nan": [{**good, "threshold": "nan"}]}
    config = json.loads((copy / "config.json").read_text())
    config["operating_points"] = made.get(points, points) if isinstance(points, str) else points
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="operating") as caught:
        Predictor.from_pretrained(copy)
    assert "\n" not in str(caught.value)


def test_onnx_carries_them(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    from cvrnet.onnx import export_onnx

    export_onnx(run, tmp_path / "model.onnx")
    loaded = Predictor.from_pretrained(tmp_path / "model.onnx")
    assert loaded.operating_points == load_operating_points([run])
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | {"operating_points": "[1]"})
    onnx.save(proto, tmp_path / "hostile.onnx")
    with pytest.raises(UserError, match="operating_points is no list of objects"):
        Predictor.from_pretrained(tmp_path / "hostile.onnx")


def test_report_of_an_evaluation(run, phantoms, tmp_path):
    """Every rate is scikit-learn's for the same decisions, and PPV and NPV are Bayes' rule."""
    evaluate(run, phantoms, tmp_path / "evaluation", audit=False, maps=False, prevalences=[0.25])
    classes = json.loads((run / "run.json").read_text())["classes"]
    table = read_predictions([tmp_path / "evaluation"], classes, "test")
    thresholds = {(p.name, p.class_name): p.threshold for p in load_operating_points([run])}
    rows = rows_of(tmp_path / "evaluation" / "tables" / "operating_points.csv")
    sources = np.array(table.sources)
    assert {row["source"] for row in rows} == {"", *table.sources}
    for row in rows:
        k = classes.index(row["class"])
        inside = sources == row["source"] if row["source"] else np.full(len(sources), True)
        truth = table.labels[inside] == k
        positive = table.probabilities[inside, k] >= thresholds[row["operating_point"], row["class"]]
        sensitivity, specificity = sk.recall_score(truth, positive), sk.recall_score(~truth, ~positive)
        assert float(row["sensitivity"]) == pytest.approx(sensitivity)
        assert float(row["specificity"]) == pytest.approx(specificity)
        positives = 0.25 * sensitivity + 0.75 * (1 - specificity)
        if positives:
            assert float(row["ppv_at_0.25"]) == pytest.approx(0.25 * sensitivity / positives)
        if positives < 1:
            assert float(row["npv_at_0.25"]) == pytest.approx(0.75 * specificity / (1 - positives))
    with pytest.raises(UserError, match=r"a prevalence of 1\.5; expected a number between 0 and 1"):
        evaluate(run, phantoms, tmp_path / "again", prevalences=[1.5])


def test_card_and_demo_show_them(run):
    from cvrnet.demo import markup
    from cvrnet.demo.answering import Answering
    from cvrnet.hub.staging import stage_run

    point = load_operating_points([run])[0]
    card = stage_run(run, "ada/chest").card.decode()
    assert f"| {point.name} | {point.class_name} | {point.threshold:.3f} |" in card
    answering = Answering(Predictor.from_pretrained(run))
    found = answering.example("CVP")
    page = markup.probabilities(found, answering.classes, answering.members, answering.points, answering.warnings)
    decided = answering.points["youden"]
    probabilities = zip(answering.classes, found.prediction.probabilities, strict=True)
    expected = sum(p >= decided[name].threshold for name, p in probabilities)
    assert page.partition(">youden<")[2].count("<strong>positive") == expected
