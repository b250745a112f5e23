"""Operating points travel with the weights: folder, ensemble, command line, ONNX file, evaluation, card and demo."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from sklearn import metrics as sk

from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.inference.decide import Decide
from cvrnet.metrics.conformal import calibrate_sets
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.operating_points import OperatingPoint, choose_operating_points
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.decisions import load_decisions, save_decisions
from cvrnet.runs.predictions import PredictionTable
from cvrnet.workflows import evaluate, train
from tests.conftest import PLAIN, TINY
from tests.support.folds import CLASSES, small_fold


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_training_chooses_on_validation_alone(run):
    points = load_decisions([run]).operating_points
    classes = json.loads((run / "run.json").read_text())["classes"]
    table = PredictionTable.read([run], classes, "val")
    assert points == choose_operating_points(
        table.labels, table.probabilities, classes, dict.fromkeys(classes, 0.9), {}
    )
    assert {point.name for point in points} == {"sensitivity=0.9", "youden"}


def test_targets_by_class(phantoms, tmp_path):
    from cvrnet.training import TrainConfig

    config = TrainConfig(**{**TINY, "epochs": 1}, sensitivity={"CVP": 0.8}, specificity=0.95)
    train(phantoms, tmp_path / "run", config, **PLAIN)
    points = load_decisions([tmp_path / "run"]).operating_points
    assert {(p.class_name, p.target) for p in points if p.rule == "sensitivity"} == {
        ("CVP", 0.8),
        ("NCP", 0.9),
        ("NOR", 0.9),
    }
    assert {p.target for p in points if p.rule == "specificity"} == {0.95}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sensitivity": {"XYZ": 0.9}}, "names the unknown class 'XYZ'; the classes are CVP, NCP, NOR"),
        ({"sensitivity": 1.5}, "sensitivity=1.5; expected a number above 0 and at most 1"),
        ({"specificity": {"CVP": 0}}, r"specificity=\{'CVP': 0\}; expected a number above 0 and at most 1"),
        ({"sensitivity": "high"}, "sensitivity='high'; expected a number above 0 and at most 1"),
    ],
)
def test_wrong_targets(phantoms, tmp_path, settings, sentence):
    from cvrnet.training import TrainConfig

    with pytest.raises(UserError, match=sentence):
        train(phantoms, tmp_path / "run", TrainConfig(**TINY, **settings), **PLAIN)
    assert not (tmp_path / "run").exists()


def test_predictor_and_command(run, phantoms, cli, tmp_path):
    predictor = Predictor.from_pretrained(run)
    images = sorted((phantoms.parent / "images").rglob("*.png"))[:6]
    thresholds = {p.class_name: p.threshold for p in predictor.decisions.operating_points if p.rule == "youden"}
    status, _, _ = cli("predict", run, *images, "--operating-point", "youden", "-o", tmp_path / "out.csv")
    assert status == 0
    for prediction, row in zip(predictor(images), rows_of(tmp_path / "out.csv"), strict=True):
        decided = predictor.decide(prediction.probabilities, operating_point="youden")
        for name, p in zip(predictor.classes, prediction.probabilities, strict=True):
            assert decided[f"positive_{name}"] == (p >= thresholds[name]) == bool(int(row[f"positive_{name}"]))
    status, _, err = cli("predict", run, images[0], "--operating-point", "sensitivity=0.5")
    assert (status, err.strip()) == (
        1,
        "Error: not every class has the operating point 'sensitivity=0.5'; the model has sensitivity=0.9, youden",
    )


def test_sets_and_abstention(run, phantoms, cli, tmp_path):
    predictor = Predictor.from_pretrained(run)
    decisions = predictor.decisions
    images = sorted((phantoms.parent / "images").rglob("*.png"))[:6]
    status, _, _ = cli("predict", run, *images, "--coverage", "0.9", "--abstain", "0.3", "-o", tmp_path / "out.csv")
    assert status == 0
    for prediction, row in zip(predictor(images), rows_of(tmp_path / "out.csv"), strict=True):
        decided = predictor.decide(prediction.probabilities, coverage=0.9, abstain=0.3)
        (members,) = decisions.prediction_sets.members([prediction.probabilities], predictor.classes, 0.9)
        assert decided["set"] == [name for name, inside in zip(predictor.classes, members, strict=True) if inside]
        assert row["set"] == "|".join(decided["set"])
        assert prediction.label in decided["set"]
        assert decided["abstain"] == decisions.abstention.passed_on([prediction.probabilities], 0.3)[0]
        assert row["abstain"] == str(int(decided["abstain"]))


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"coverage": 0.905}, r"a coverage of 0\.905; expected one of 0\.50"),
        ({"abstain": 1.5}, r"a share of 1\.5 to pass on"),
        ({"by_class": True}, "by_class is for prediction sets; set a coverage"),
        ({"operating_point": "f1"}, "the operating point 'f1'"),
    ],
)
def test_decisions_that_are_not_there(run, wanted, sentence):
    with pytest.raises(UserError, match=sentence):
        Predictor.from_pretrained(run).decide([0.2, 0.3, 0.5], **wanted)


def test_a_model_without_them_says_so():
    for wanted, lacking in (
        ({"coverage": 0.9}, "the model has no prediction sets; `cvrnet train` and `crossval`"),
        ({"abstain": 0.3}, "the model cannot abstain: it has no limits of uncertainty; `cvrnet train` and `crossval`"),
        ({"operating_point": "youden"}, r"the model has none \(train and crossval"),
    ):
        with pytest.raises(UserError, match=lacking):
            Decide(Decisions(), ["CVP", "NOR"], **wanted)


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
def test_classes_that_are_in_every_prediction_set_are_told(coverage, by_class):
    truth = np.repeat([0, 1, 2], [4, 12, 40])
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], len(truth))
    sets = calibrate_sets(truth, probabilities, CLASSES, range(len(truth)))
    decide = Decide(Decisions(prediction_sets=sets), CLASSES, coverage=coverage, by_class=by_class)
    found = [decide(row)["set"] for row in np.eye(3)]  # a class of probability 0 is in a set only if it always is
    always = [name for name in CLASSES if all(name in one for one in found)]
    told = "holds all classes" if always == CLASSES else f"too few validation patients of {', '.join(always)} for"
    assert [told in warning for warning in decide.warnings] == [True] * bool(always)
    assert len(always) == (3 if coverage == 0.99 else by_class)  # CVP has 4 patients: too few for a limit of its own


def test_few_validation_images_are_told_wherever_it_is_used(copy, phantoms, cli):
    weak = OperatingPoint("CVP", "youden", None, 0.4, 3, 4, 20, 30)
    save_decisions(copy, Decisions([weak]))
    image = sorted((phantoms.parent / "images").rglob("*.png"))[0]
    warning = "CVP: its thresholds are based on only 4 validation images with this label"
    _, out, err = cli("predict", copy, image, "--operating-point", "youden")
    assert f"Warning: {warning}" in err
    assert "positive_CVP" in out
    assert "positive_NOR" not in out  # it has no threshold
    evaluate(copy, phantoms, copy.parent / "evaluation", audit=False, maps=False)
    assert warning in (copy.parent / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_runs_without_them_work_as_before(copy, phantoms, cli):
    config = json.loads((copy / "config.json").read_text())
    del config["decisions"]
    (copy / "config.json").write_text(json.dumps(config))
    image = sorted((phantoms.parent / "images").rglob("*.png"))[0]
    assert cli("predict", copy, image)[0] == 0
    status, _, err = cli("predict", copy, image, "--operating-point", "youden")
    assert (status, err.strip()) == (
        1,
        "Error: no operating point 'youden': the model has none (train and crossval choose them)",
    )
    evaluate(copy, phantoms, copy.parent / "evaluation", audit=False, maps=False)
    assert "<h2>Operating points" not in (copy.parent / "evaluation" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "points",
    [3, [3], [{"class_name": "CVP"}], "class", "twice", "nan"],
)
def test_hostile_points_are_one_line(copy, points):
    good = asdict(OperatingPoint("CVP", "youden", None, 0.4, 3, 4, 20, 30))
    made = {"class": [{**good, "class_name": "XYZ"}], "twice": [good, good], "nan": [{**good, "threshold": "nan"}]}
    config = json.loads((copy / "config.json").read_text())
    config["decisions"]["operating_points"] = made.get(points, points) if isinstance(points, str) else points
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="operating") as caught:
        Predictor.from_pretrained(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["prediction_sets", "abstention"])
@pytest.mark.parametrize("value", [3, {}, {"score": "luck"}, "limits"])
def test_hostile_limits_are_one_line(copy, key, value):
    config = json.loads((copy / "config.json").read_text())
    if value == "limits":
        config["decisions"][key]["least" if key == "prediction_sets" else "limits"][0] = -1
    else:
        config["decisions"][key] = value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"ha(ve|s) an unexpected form|have impossible values|has impossible values"):
        Predictor.from_pretrained(copy)


def test_onnx_carries_them(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    from cvrnet.onnx import export_onnx

    save_checkpoint(small_fold(1), tmp_path / "small", CLASSES)
    save_decisions(tmp_path / "small", load_decisions([run]))
    export_onnx(tmp_path / "small", tmp_path / "model.onnx")
    loaded = Predictor.from_pretrained(tmp_path / "model.onnx")
    assert loaded.decisions == load_decisions([run])
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | {"decisions": "[1]"})
    onnx.save(proto, tmp_path / "hostile.onnx")
    with pytest.raises(UserError, match="its decisions have an unexpected form"):
        Predictor.from_pretrained(tmp_path / "hostile.onnx")


def test_report_of_an_evaluation(run, phantoms, tmp_path):
    """Every rate is scikit-learn's for the same decisions, and PPV and NPV are Bayes' rule."""
    evaluate(run, phantoms, tmp_path / "evaluation", audit=False, maps=False, prevalences=[0.25])
    classes = json.loads((run / "run.json").read_text())["classes"]
    table = PredictionTable.read([tmp_path / "evaluation"], classes, "test")
    thresholds = {(p.name, p.class_name): p.threshold for p in load_decisions([run]).operating_points}
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
    sets, passed = (
        rows_of(tmp_path / "evaluation" / "tables" / f"{name}.csv") for name in ("prediction_sets", "abstention")
    )
    decisions = load_decisions([run])
    members = decisions.prediction_sets.members(table.probabilities, classes, 0.9)
    (row,) = [row for row in sets if row["target"] == "0.9" and not row["of"]]
    assert float(row["coverage"]) == pytest.approx(members[np.arange(len(members)), table.labels].mean())
    assert float(row["mean_size"]) == pytest.approx(members.sum(1).mean())
    kept = ~decisions.abstention.passed_on(table.probabilities, 0.2)
    (row,) = [row for row in passed if row["target"] == "0.2"]
    assert int(row["answered"]) == kept.sum()
    if kept.any():
        assert float(row["accuracy"]) == pytest.approx(sk.accuracy_score(table.labels[kept], table.guesses[kept]))
    with pytest.raises(UserError, match=r"prevalence 1\.5; expected a number between 0 and 1"):
        evaluate(run, phantoms, tmp_path / "again", prevalences=[1.5])


def test_card_and_demo_show_them(run):
    from cvrnet.demo import markup
    from cvrnet.demo.answering import Answering
    from cvrnet.hub.staging import stage_run

    point = load_decisions([run]).operating_points[0]
    card = stage_run(run, "ada/chest").card.decode()
    assert f"| {point.name} | {point.class_name} | {point.threshold:.3f} |" in card
    answering = Answering(Predictor.from_pretrained(run))
    found = answering.example("CVP")
    page = markup.probabilities(found, answering.classes, answering.members, answering.points, answering.warnings)
    decided = answering.points["youden"]
    probabilities = zip(answering.classes, found.prediction.probabilities, strict=True)
    expected = sum(p >= decided[name].threshold for name, p in probabilities)
    assert page.partition(">youden<")[2].count("<strong>positive") == expected
