"""Several findings an image: from a manifest to a report, and everything that may be wrong with it."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cvrnet import Predictor
from cvrnet.audit import read_audited
from cvrnet.data import DataError, read_records
from cvrnet.data.finding_columns import finding_columns
from cvrnet.data.finding_labels import split_findings
from cvrnet.data.findings import finding_truth, learnable_findings
from cvrnet.data.overview import labels_of
from cvrnet.data.record import Record
from cvrnet.data.splits import holdout_split, make_folds, patient_keys
from cvrnet.errors import UserError
from cvrnet.hub.staging import stage_run
from cvrnet.metrics.operating_points import threshold_warnings
from cvrnet.report.explanations import maps_section
from cvrnet.runs.decisions import load_decisions
from cvrnet.training import recipe
from cvrnet.workflows import cross_validate, evaluate, make_soup, train
from cvrnet.workflows.calibrate import calibrate
from tests.support.films import CONFIG, FINDINGS, write_films


def record(label: str = "", **cells: str) -> Record:
    return Record(Path("/data/a.png"), "a.png", label, metadata=cells, where="m.csv:2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_films(tmp_path_factory.mktemp("films") / "data", 120, columns=True)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("findings") / "run"
    return output, cross_validate(data, output, CONFIG, n_folds=3, audit=False, maps=False)


def test_labels_and_columns_say_the_same():
    by_label = [record("Edema|Mass"), record("No Finding"), record("Mass"), record("")]
    by_column = [
        record(Edema="1", Mass="1.0"),
        record(**{"No Finding": "1"}, Edema="", Mass=""),
        record(Edema="0", Mass="1"),
        record(Edema="", Mass="nan"),
    ]
    for records in (by_label, by_column):
        truth = finding_truth(records, ["Edema", "Mass"])
        np.testing.assert_array_equal(truth, [[1, 1], [0, 0], [0, 1], [np.nan, np.nan]])


@pytest.mark.parametrize("none", ["No Finding", "No finding", "NO FINDING", "no_finding"])
def test_no_finding_is_the_empty_set_in_any_spelling(none):
    labels = [record("Edema"), *[record(none)] * 5, *[record("Edema|Mass")] * 5]
    names, _, few = learnable_findings(labels)
    assert (names, few) == (["Edema", "Mass"], [])
    np.testing.assert_array_equal(finding_truth(labels[:2], ["Edema", "Mass"]), [[1, 0], [0, 0]])
    with pytest.raises(
        DataError, match=f"m.csv:2: a.png: label 'Edema|{none}' names findings and also No Finding".replace("|", r"\|")
    ):
        finding_truth([record(f"Edema|{none}")], ["Edema"])
    columns = [record(**{none: "1"}, Edema=""), record(**{none: "0"}, Edema="1.0"), record(**{none: ""}, Edema="")]
    assert finding_columns(columns) == ["Edema"]
    np.testing.assert_array_equal(finding_truth(columns, ["Edema"]), [[0], [1], [np.nan]])
    assert labels_of(columns) == [(none,), ("Edema",), ()]


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", np.nan), ("positive", 1), ("negative", 0)])
def test_uncertain_cells(uncertain, value):
    np.testing.assert_array_equal(finding_truth([record(Edema="-1.0")], ["Edema"], uncertain), [[value]])


def test_cells_and_labels_that_cannot_be(tmp_path):
    with pytest.raises(DataError, match=r"m.csv:2: a.png: Edema is 'maybe'; expected 1, 0, -1 or empty"):
        finding_truth([record(Edema="maybe")], ["Edema"])
    with pytest.raises(
        UserError, match="No finding is not a finding, but means that there are no findings: leave it out of --findings"
    ):
        learnable_findings([record("Edema|Mass")], ["Edema", "No finding"])
    with pytest.raises(UserError, match="no finding 'Masss' in the data set; it has Edema, Mass"):
        learnable_findings([record("Edema|Mass")], ["Masss"])
    with pytest.raises(UserError, match="each must be given once"):
        learnable_findings([record("Edema|Mass")], ["Mass", "Mass"])
    with pytest.raises(UserError, match="the data set has no findings"):
        learnable_findings([record(age="7")])


def test_auto_takes_what_enough_patients_have(data):
    records = read_records(data, labelled=False)
    names, truth, few = learnable_findings(records)
    assert (names, few) == (FINDINGS, [])
    np.testing.assert_array_equal(truth, finding_truth(records, FINDINGS))
    rare = [r for i, r in enumerate(records) if r.metadata["Rare"] != "1.0" or i < 24]
    names, truth, few = learnable_findings(rare)
    assert (names, truth.shape, few) == (["Bright", "Left"], (len(rare), 2), ["Rare"])


def test_findings_and_sources_are_spread_over_folds_and_patients_are_not(tmp_path):
    records = read_records(write_films(tmp_path / "data", 300, columns=False, seed=1), labelled=False)
    folds = np.array(make_folds(records, 5, findings=FINDINGS))
    patients = np.array(patient_keys(records))
    assert all(len({*folds[patients == p]}) == 1 for p in {*patients})
    for name in FINDINGS:
        has = np.array([name in r.label for r in records])
        counts = np.bincount(folds[has], minlength=6)[1:]
        assert counts.max() - counts.min() <= 3, (name, counts)
    assert np.ptp(np.bincount(folds)[1:]) <= 6
    held = np.array(holdout_split(records, 0.2, findings=FINDINGS))
    assert 0.15 < held.mean() < 0.25
    assert not {*patients[held]} & {*patients[~held]}
    assert make_folds(records, 5, findings=FINDINGS) == folds.tolist()


def test_it_learns_what_is_there(run):
    output, summary = run
    per_finding = summary["pooled"]["per_finding"]
    assert per_finding["Bright"]["roc_auc"] > 0.95
    assert per_finding["Left"]["roc_auc"] > 0.7
    assert per_finding["Left"]["unknown"] > 0
    assert summary["pooled"]["n"] == 120
    assert summary["mean_std"]["macro"]["roc_auc"]["n"] == 3
    page = (output / "report.html").read_text(encoding="utf-8")
    for text in (
        "AUC of",
        "sex, on test",
        "Operating points",
        "Effect of averaging the heads",
        "Marked as unusual",
        "macro AUC",
    ):
        assert text in page
    rows = list(csv.DictReader((output / "tables" / "findings.csv").open(encoding="utf-8-sig")))
    assert {row["finding"] for row in rows} == {*FINDINGS, "mean"}
    assert {row["source"] for row in rows} == {"", "a", "b"}


def test_thresholds_come_from_known_validation_images(run):
    output, _ = run
    points = load_decisions([output / "fold-1"]).operating_points
    assert {p.class_name for p in points} == {*FINDINGS}
    rows = list(csv.DictReader((output / "fold-1" / "predictions.csv").open(encoding="utf-8")))
    val = [row for row in rows if row["split"] == "val" and row["true_Left"]]
    point = next(p for p in points if p.class_name == "Left" and p.rule == "sensitivity")
    assert point.positives + point.negatives == len(val)
    assert point.positives == sum(row["true_Left"] == "1" for row in val)
    page = html.unescape((output / "report.html").read_text(encoding="utf-8"))
    told = [
        (line, fold)
        for fold in (1, 2, 3)
        for line in threshold_warnings(load_decisions([output / f"fold-{fold}"]).operating_points)
    ]
    assert told
    for line, fold in told[:20]:
        assert re.search(rf"{re.escape(line)} \(fold [^)]*{fold}", page), line


def test_predict_and_evaluate(run, data, tmp_path, cli):
    output, _ = run
    images = sorted(data.parent.glob("*.png"))[:5]
    status, out, err = cli("predict", output, *images, "--format", "jsonl", "--operating-point", "youden")
    assert status == 0, err
    row = json.loads(out.splitlines()[0])
    assert {f"prob_{name}" for name in FINDINGS} <= {*row}
    assert row["positive_Bright"] in (0, 1)
    assert row["prediction"] == ("|".join(n for n in FINDINGS if row[f"prob_{n}"] >= 0.5) or "No Finding")
    other = write_films(tmp_path / "other", 40, columns=False, seed=9)
    result = evaluate(str(output), other, tmp_path / "evaluation", audit=False, maps=False)
    assert result["metrics"]["test"]["per_finding"]["Bright"]["roc_auc"] > 0.95
    assert result["images"]["Rare"] == 4
    assert "Each finding" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    _write(other.parent / "bare.csv", [{"path": path.name} for path in sorted(other.parent.glob("*.png"))])
    with pytest.raises(UserError, match="no image has a label for any of the model's findings"):
        evaluate(str(output), other.parent / "bare.csv", tmp_path / "none", audit=False, maps=False)


def _rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_frozen_encoders_and_a_single_finding(tmp_path):
    data = write_films(tmp_path / "data", 40, columns=True)
    config = recipe(
        "frozen",
        model="cvrnet",
        encoders=("test_resnet",),
        pretrained=False,
        img_size=32,
        epochs=1,
        findings=("Bright",),
        device="cpu",
    )
    metrics = train(data, tmp_path / "run", config, audit=True, maps=False)
    assert metrics["val"]["findings"] == ["Bright"]
    assert Predictor.from_pretrained(tmp_path / "run").task == "multilabel"


def test_an_interrupted_training_continues_with_the_same_result(data, tmp_path):
    config = replace(CONFIG, model="cvrnet", encoders=("test_resnet",), epochs=2)
    whole = train(data, tmp_path / "whole", config, audit=False, maps=False)
    train(data, tmp_path / "parts", replace(config, epochs=1), audit=False, maps=False)
    parts = train(data, tmp_path / "parts", config, audit=False, maps=False, resume=True)
    assert parts["val"]["macro"] == whole["val"]["macro"]
    one, other = (tmp_path / name / "predictions.csv" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_for_one_class_says_so(run, data, tmp_path, cli):
    output, _ = run
    with pytest.raises(UserError, match="is a model of findings; calibration is for"):
        calibrate(str(output), data, tmp_path / "out")
    for command in (
        ("train", data, "-o", tmp_path / "out", "--findings", "auto", "--model", "resnet18", "--no-pretrained"),
        ("train", data, "-o", tmp_path / "out", "--findings", "auto", "--classes", "Left,Bright"),
        ("train", data, "-o", tmp_path / "out", "--findings", "auto", "--monitor", "val_accuracy"),
    ):
        status, _, err = cli(*command)
        assert status in (1, 2), command
        assert err.splitlines()[-1].startswith("Error: "), err
        assert "finding" in err, err
    assert not (tmp_path / "out").exists()
    single = write_films(tmp_path / "single", 30, columns=False)
    status, _, err = cli("train", single, "-o", tmp_path / "out")
    assert status == 1
    assert "--findings auto" in err


def test_a_soup(run, tmp_path):
    made = make_soup(run[0], tmp_path / "soup", audit=False, maps=False)
    assert [row["model"] for row in made["rows"]] == ["fold-1", "fold-2", "fold-3", "ensemble", "soup"]
    assert "all 120 images of the run" in made["images"]
    assert "mean AUC" in made["verdict"]
    assert Predictor.from_pretrained(tmp_path / "soup").task == "multilabel"


def test_calibration_images_of_int8_have_what_is_known(data):
    pytest.importorskip("onnx")
    from cvrnet.onnx.check_images import split_calibration

    chosen, others = split_calibration(data, 20, 50, ["Left", "Other"], "multilabel")
    assert (len(chosen), len(others)) == (20, 50)
    assert {r.findings for r in others} == {(1.0, None), (0.0, None), (None, None)}


def test_quickstart(tmp_path, cli, monkeypatch):
    monkeypatch.setattr("cvrnet.model_info.describe_model", lambda name: SimpleNamespace(pretrained="no"))
    data = write_films(tmp_path / "data", 40, columns=False)
    status, out, err = cli("quickstart", data, "-o", tmp_path / "q", "--epochs", 1, "--findings", "Bright,Left")
    assert status == 0, err
    assert "prob_Left" in out


def test_its_card_and_its_maps(run, data, tmp_path, cli):
    output, summary = run
    staged = stage_run(output, "ada/findings")
    card = staged.card.decode()
    (marked,) = [row for row in _rows(output / "tables" / "unlike_training.csv") if not row["source"]]
    assert f"training images: {100 * float(marked['marked']):.0f} % of the test images" in card
    assert "gives the probabilities of findings" in card
    assert f"| Bright | {summary['pooled']['per_finding']['Bright']['positives']} |" in card
    assert "AUC, mean over the findings, mean of 3 folds" in card
    assert staged.run["task"] == "multilabel"
    image = sorted(data.parent.glob("*.png"))[0]
    status, _, err = cli("explain", output, image, "-o", tmp_path / "maps", "--target", "Left")
    assert status == 0, err
    assert list((tmp_path / "maps").rglob("*.png"))
    html = maps_section(output).html
    assert html.count("for Bright") == html.count("for Left") == html.count("for Rare") == 1
    assert html.count("<img") == 6


def test_two_models_on_the_same_images(run, data, tmp_path, cli):
    output, _ = run
    status, _, err = cli("evaluate", output / "fold-1", output / "fold-2", data, "-o", tmp_path / "both", "--no-audit")
    assert status == 0, err
    rows = list(csv.DictReader((tmp_path / "both" / "tables" / "paired.csv").open(encoding="utf-8-sig")))
    assert [(row["score"], row["class"]) for row in rows] == [("auc_macro", ""), *(("auc", name) for name in FINDINGS)]
    of = {}
    for fold in ("fold-1", "fold-2"):
        metrics = json.loads((tmp_path / "both" / fold / "metrics.json").read_text())["test"]
        of[fold] = [metrics["macro"]["roc_auc"], *(metrics["per_finding"][name]["roc_auc"] for name in FINDINGS)]
    np.testing.assert_allclose([float(row["one"]) for row in rows], of["fold-2"], atol=1e-9)
    np.testing.assert_allclose([float(row["other"]) for row in rows], of["fold-1"], atol=1e-9)
    assert "DeLong" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")


def test_the_page_and_the_audit_know_findings(run, data, tmp_path, cli):
    pytest.importorskip("gradio")
    from cvrnet.demo import markup
    from cvrnet.demo.answering import Answering

    answering = Answering(Predictor.from_pretrained(run[0] / "fold-1", "cpu", "fp32"))
    answer = answering.example("NOR")
    page = markup.probabilities(answer, answering.classes, answering.members)
    assert f"<h2>{answer.prediction.label.replace('|', ', ')}</h2>" in page
    assert "Probability of each finding" in page
    assert "findings on chest radiographs (Bright, Left, Rare)" in markup.header("x", "y", FINDINGS, answering.task)
    for manifest in (data, write_films(tmp_path / "labelled", 60, columns=False)):
        records, problems, names = read_audited(manifest)
        assert (problems, names) == ([], FINDINGS)
        assert {*map(tuple, map(split_findings, {r.label for r in records}))} >= {(), ("Bright",), ("Bright", "Left")}
