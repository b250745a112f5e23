"""Runs of version 0.1 (tests/fixtures/runs-0.1): they load, answer as then, and are resumed, joined and reported."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

from cvrnet import Predictor
from cvrnet.data import Preprocessing, write_phantoms
from cvrnet.onnx import export_onnx
from cvrnet.report import write_report
from cvrnet.runs.checkpoint import checkpoint_classes, load_checkpoint, save_checkpoint
from cvrnet.training import TrainConfig
from cvrnet.workflows import collect, cross_validate, train
from tests.conftest import PLAIN

OLD = Path(__file__).parents[1] / "fixtures" / "runs-0.1"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The phantoms that the old runs were trained on."""
    return write_phantoms(tmp_path_factory.mktemp("old") / "phantoms", 36, size=64)


@pytest.fixture(params=["one", "three"])
def old(request, tmp_path):
    run = Path(shutil.copytree(OLD / request.param, tmp_path / request.param))
    (run / "figures").mkdir()
    for name in ("confusion_matrix", "roc", "precision_recall", "calibration", "heads", "learning_curves"):
        Image.new("L", (8, 8)).save(run / "figures" / f"{name}.png")  # left out of the fixtures for their size
    return run


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def config(run):
    settings = json.loads((run / "run.json").read_text())["config"]
    return TrainConfig(**{**settings, "encoders": tuple(settings["encoders"])})


def test_they_answer_as_they_did(old, data):
    for path in sorted(old.glob("**/predictions.csv")):
        then = rows(path)
        predictor = Predictor.from_pretrained(path.parent, dtype="fp32")
        now = predictor([data.parent / row["path"] for row in then])
        expected = [[float(row[f"prob_{name}"]) for name in predictor.classes] for row in then]
        np.testing.assert_allclose([p.probabilities for p in now], expected, atol=1e-5)


def test_they_are_resumed_and_left_as_they_are(old, data):
    weights = {path: path.read_bytes() for path in old.glob("**/model.safetensors")}
    if old.name == "one":
        metrics = train(data, old, config(old), test_source="site-b", resume=True, **PLAIN)
        assert metrics == json.loads((OLD / "one/metrics.json").read_text())
    else:
        summary = cross_validate(data, old, config(old), n_folds=3, resume=True, **PLAIN)
        assert summary["folds"] == json.loads((OLD / "three/summary.json").read_text())["folds"]
    assert rows(old / "split.csv")[0].keys() == rows(OLD / old.name / "split.csv")[0].keys()
    assert all(path.read_bytes() == content for path, content in weights.items())


def test_they_are_reported(old):
    if old.name == "three":
        assert collect(old, maps=False) == json.loads((OLD / "three/summary.json").read_text())
    page = write_report(old).read_text()
    assert "NCP" in page
    assert {"one": "Training", "three": "Cross-validation"}[old.name] in page


def test_they_read_deep_grey_as_they_did(old, data, tmp_path):
    """By the extreme pixels, wherever the checkpoint goes: fold, timm, another save, ONNX; a resumed run too."""
    for folder in [old, *old.glob("fold-1")]:
        if (folder / "config.json").is_file():
            model = load_checkpoint(folder)
            save_checkpoint(model, tmp_path / "again", checkpoint_classes(model))
            by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True)
            for one in (model, by_timm, load_checkpoint(tmp_path / "again")):
                assert Preprocessing.from_model(one).grey_version == 1
            export_onnx(folder, tmp_path / "old.onnx", check_images=data.parent)
            assert Predictor.from_pretrained(tmp_path / "old.onnx").preprocessing.grey_version == 1
    values = np.rint(np.linspace(500, 4095, 64 * 64).reshape(64, 64)).astype(np.uint16)
    values[3, 3] = 65535
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / "as-then.png")
    # One by one: some processors round the images of a batch differently.
    predictor = Predictor.from_pretrained(old, dtype="fp32")
    (deep,), (then,) = predictor([tmp_path / "deep.png"]), predictor([tmp_path / "as-then.png"])
    np.testing.assert_array_equal(deep.probabilities, then.probabilities)


def test_new_runs_have_the_new_version_and_old_ones_stay(data, tmp_path):
    settings = TrainConfig(model="test_resnet", pretrained=False, img_size=64, epochs=1)
    train(data, tmp_path / "new", settings, **PLAIN)
    assert json.loads((tmp_path / "new/run.json").read_text())["config"]["grey_version"] == 2
    assert Predictor.from_pretrained(tmp_path / "new").preprocessing.grey_version == 2
    assert timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True).pretrained_cfg["notes"]

    began = shutil.copytree(OLD / "three", tmp_path / "three")
    shutil.rmtree(began / "fold-3")
    (began / "summary.json").unlink()
    cross_validate(data, began, config(began), n_folds=3, resume=True, **PLAIN)
    assert Predictor.from_pretrained(began).preprocessing.grey_version == 1
