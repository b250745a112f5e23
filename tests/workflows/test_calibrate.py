"""A model is calibrated on images of another hospital, and stays an ordinary checkpoint."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import timm
from scipy.special import softmax
from sklearn.metrics import log_loss

from cvrnet import Predictor
from cvrnet.data import read_records, to_batch, write_phantoms
from cvrnet.errors import UserError
from cvrnet.hub.staging import stage_run
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.recalibration import Recalibration
from cvrnet.onnx import export_onnx, load_onnx
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.decisions import load_decisions, save_decisions
from cvrnet.runs.held_out import trained_on
from cvrnet.workflows.calibrate import calibrate
from tests.support.folds import CLASSES, small_fold, write_folds


@pytest.fixture(scope="module")
def folds(run, tmp_path_factory):
    """A run of two folds that differ."""
    return write_folds(run, tmp_path_factory.mktemp("folds"), 2, small_fold)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """60 phantoms of other patients, from sites that no model was trained on."""
    return write_phantoms(tmp_path_factory.mktemp("else") / "data", 60, size=64, seed=5, sources=("site-c", "site-d"))


def _write(manifest, rows):
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def _some(elsewhere, keep, name="some.csv"):
    rows = list(csv.DictReader(elsewhere.open(newline="")))
    return _write(elsewhere.parent / name, [row for row in rows if keep(row)])


def _answers(model, records):
    return np.array([p.probabilities for p in Predictor.from_pretrained(model)([r.path for r in records])])


@pytest.fixture(scope="module")
def done(folds, elsewhere, tmp_path_factory):
    output = tmp_path_factory.mktemp("calibrated") / "ours"
    return output, calibrate(str(folds), elsewhere, output)


def test_the_ensemble_answers_as_the_calibration_says(done, folds, elsewhere):
    output, result = done
    records = read_records(elsewhere)
    before = _answers(folds, records)
    fitted = Recalibration(result["calibration"]["scale"], tuple(result["calibration"]["bias"].values()))
    np.testing.assert_allclose(_answers(output, records), fitted(before), atol=1e-6)
    labels = np.array([CLASSES.index(r.label) for r in records])
    assert log_loss(labels, fitted(before)) < log_loss(labels, before)


def test_the_weights_stay(done, folds):
    for fold in ("fold-1", "fold-2"):
        assert (done[0] / fold / "model.safetensors").read_bytes() == (folds / fold / "model.safetensors").read_bytes()
        assert timm.create_model(f"local-dir:{done[0] / fold}", pretrained=True).num_classes == 3


@pytest.mark.parametrize("kind", ["cvrnet", "timm"])
def test_an_onnx_file_is_calibrated_once(done, elsewhere, tmp_path, kind):
    """In its graph, and in `Predictor`; for a network with heads and for one without."""
    model, records = done[0], read_records(elsewhere)[:8]
    if kind == "timm":
        model = tmp_path / "timm"
        save_checkpoint(timm.create_model("test_resnet", num_classes=3).eval(), model, CLASSES)
        save_decisions(model, Decisions(calibration=Recalibration(1.7, (0.5, -0.2, -0.3))))
    export_onnx(model, tmp_path / "ours.onnx", check_images=elsewhere)
    expected = _answers(model, records)
    np.testing.assert_allclose(_answers(tmp_path / "ours.onnx", records), expected, atol=1e-4)
    graph, size = load_onnx(tmp_path / "ours.onnx"), Predictor.from_pretrained(model).preprocessing
    logits = graph.logits(to_batch([size.resize(size.read(r.path)) for r in records]).numpy())
    np.testing.assert_allclose(softmax(logits, -1), expected, atol=1e-4)


def test_folds_that_were_calibrated_separately_are_no_ensemble(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "mixed")
    save_decisions(tmp_path / "mixed" / "fold-2", Decisions(calibration=Recalibration(2.0, (0.0, 0.0, 0.0))))
    with pytest.raises(UserError, match="calibrated separately"):
        Predictor.from_pretrained(tmp_path / "mixed")
    assert Predictor.from_pretrained(tmp_path / "mixed" / "fold-2").decisions.calibration.scale == 2


def test_the_folder_says_what_was_done(done, elsewhere):
    output, result = done
    records = read_records(elsewhere)
    run = json.loads((output / "run.json").read_text())
    assert run["kind"] == "calibrate"
    assert run["calibration"]["images"] == len(records)
    assert run["calibration"]["patients"] == len({r.patient_id for r in records})
    rows = list(csv.DictReader((output / "tables" / "before_after.csv").open(newline="", encoding="utf-8-sig")))
    assert [row["score"] for row in rows] == [row["score"] for row in result["rows"]]
    assert rows[0]["score"] == "log_loss"
    assert float(rows[0]["after"]) == pytest.approx(
        json.loads((output / "metrics.json").read_text())["test"]["log_loss"]
    )
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Before and after the calibration" in page
    assert f"calibrated and scored on {len(records)} images: the calibration that is applied to an image" in page
    patients = run["calibration"]["patients"]
    made = f"Recalibrated (temperature and bias) with {len(records)} images of {patients} patients."
    assert made in (output / "checklist.md").read_text(encoding="utf-8")
    assert trained_on(output).count(records) == len(records)
    card = stage_run(output, "ada/chest").card.decode()
    assert f"with {len(records)} images of" in card
    with pytest.raises(UserError, match="calibrated already"):
        calibrate(str(output), elsewhere, output.parent / "again")


def test_an_ensemble_counts_its_images_once(done, elsewhere):
    points = load_decisions([done[0] / "fold-1", done[0] / "fold-2"]).operating_points
    records = read_records(elsewhere)
    assert {p.class_name for p in points} == set(CLASSES)
    assert all(p.positives == sum(r.label == p.class_name for r in records) for p in points)


def test_without_labels(run, elsewhere, tmp_path, cli):
    status, out, err = cli("calibrate", run, elsewhere, "-o", tmp_path / "ours", "--unlabelled")
    assert status == 0, err
    assert "share_estimated" in out
    assert "nothing could be checked" in err + out
    assert load_decisions([tmp_path / "ours"]).operating_points == []
    about = json.loads((tmp_path / "ours" / "run.json").read_text())["calibration"]
    assert about["scale"] == 1
    assert about["by_class"] == {}
    records = read_records(elsewhere)
    rows = [line.split() for line in out.splitlines()]
    shares = {row[0]: float(row[2]) for row in rows if row and row[0] in CLASSES}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert _answers(tmp_path / "ours", records).mean(0) == pytest.approx([shares[n] for n in CLASSES], abs=1e-2)
    assert "These images had no labels" in stage_run(tmp_path / "ours", "ada/chest").card.decode()


def test_images_that_cannot_teach_are_refused(run, phantoms, elsewhere, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"trained or validated on \d+ of the 36 images.*such as images/.*patient"):
        calibrate(str(run), phantoms, out)
    with pytest.raises(UserError, match=r"all \d+ images are NOR: temperature and biases need two classes"):
        calibrate(str(run), _some(elsewhere, lambda row: row["label"] == "NOR"), out)
    seen = iter(range(100))
    with pytest.raises(UserError, match=r"too few images to calibrate a model \(19\)"):
        calibrate(str(run), _some(elsewhere, lambda row: next(seen) < 19), out)
    rows = list(csv.DictReader(elsewhere.open(newline="")))
    strange = _write(elsewhere.parent / "strange.csv", [{**rows[0], "label": "TB"}, *rows[1:]])
    with pytest.raises(UserError, match="does not know the class TB"):
        calibrate(str(run), strange, out)
    ncp = next(row["patient_id"] for row in rows if row["label"] == "NCP")
    lonely = _some(elsewhere, lambda row: row["label"] != "NCP" or row["patient_id"] == ncp)
    with pytest.raises(UserError, match="all images of NCP are of one patient"):
        calibrate(str(run), lonely, out)
    with pytest.raises(UserError, match="ONNX"):
        calibrate("model.onnx", elsewhere, out)
    assert not out.exists()


def test_a_class_without_images_keeps_its_bias(run, elsewhere, tmp_path):
    result = calibrate(str(run), _some(elsewhere, lambda row: row["label"] != "NCP"), tmp_path / "out")
    assert result["calibration"]["bias"]["NCP"] == 0
    assert result["calibration"]["by_class"]["NCP"] == {"images": 0, "patients": 0}
    assert any(sentence.startswith("NCP has no image") for sentence in result["sentences"])
    assert {p.class_name for p in load_decisions([tmp_path / "out"]).operating_points} == {"CVP", "NOR"}
