"""Training on bags of pictures: from manifest to report, from the command line, and what does not take them."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cvrnet import Predictor
from cvrnet.data import DataError, read_records, write_manifest
from cvrnet.data.phantom_studies import write_studies
from cvrnet.data.splits import patient_keys
from cvrnet.errors import UserError
from cvrnet.runs.attention import read_attention
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.split_table import SplitTable
from cvrnet.training import recipe
from cvrnet.training.model import InitialModel
from cvrnet.workflows import Callbacks, benchmark, compare, cross_validate, evaluate, train
from tests.conftest import PLAIN, TINY
from tests.data.test_dicom import volume

MODEL = {name: TINY[name] for name in ("model", "encoders", "pretrained")}
CONFIG = recipe("studies", **MODEL, img_size=32, unit="study", epochs=2, drop_rate=0.0)
ONE = replace(CONFIG, encoders=("test_resnet",))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_studies(tmp_path_factory.mktemp("data") / "follow-up", "follow-up", 18, size=64)


@pytest.fixture(scope="module")
def bag_run(follow_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(follow_up, run, CONFIG, **PLAIN)
    return run


def test_a_run_has_one_row_a_bag(bag_run: Path, follow_up: Path) -> None:
    run = json.loads((bag_run / "run.json").read_text())
    assert (run["unit"], run["config"]["pooling"], run["config"]["time"]) == ("study", "attention", True)
    assert sum(run["images"].values()) == 18
    assert run["pictures"] == len(read_records(follow_up))
    predictions = rows(bag_run / "predictions.csv")
    assert len(predictions) == len({row["path"] for row in predictions})
    attention = read_attention([bag_run], "val")
    assert [bag.study for bag in attention] == [row["path"] for row in predictions]
    for bag in attention:
        assert bag.shares.sum() == pytest.approx(1)
        assert bag.days[-1] == 0
    report = (bag_run / "report.html").read_text()
    assert "Which pictures counted" in report
    assert "image not found" not in report
    model: Any = load_checkpoint(bag_run)
    assert (model.unit, model.head.pooling, model.head.time) == ("study", "attention", True)
    assert Predictor.from_pretrained(bag_run).unit == "study"


def test_evaluation_repeats_the_validation(bag_run: Path, follow_up: Path, tmp_path: Path) -> None:
    validated = {row["path"]: row for row in rows(bag_run / "predictions.csv")}
    evaluate(str(bag_run), follow_up, tmp_path / "e", **PLAIN)
    again = {row["path"]: row for row in rows(tmp_path / "e" / "predictions.csv")}
    assert len(again) == 18
    for name, row in validated.items():
        for column in ("prob_better", "prob_worse"):
            assert float(again[name][column]) == pytest.approx(float(row[column]), abs=1e-4)
    mine = {bag.study: bag for bag in read_attention([tmp_path / "e"], "test")}
    for bag in read_attention([bag_run], "val"):
        np.testing.assert_allclose(mine[bag.study].shares, bag.shares, atol=1e-4)


def test_the_seed_determines_a_run_in_one_piece_or_two(bag_run: Path, follow_up: Path, tmp_path: Path) -> None:
    train(follow_up, tmp_path / "again", replace(CONFIG, epochs=1), **PLAIN)
    train(follow_up, tmp_path / "again", CONFIG, resume=True, **PLAIN)
    for name in ("predictions.csv", "attention.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (bag_run / name).read_bytes()
    train(follow_up, tmp_path / "other", replace(CONFIG, seed=1), **PLAIN)
    assert (tmp_path / "other" / "predictions.csv").read_bytes() != (bag_run / "predictions.csv").read_bytes()


def test_the_order_of_the_manifest_does_not_count_without_days(follow_up: Path, bag_run: Path, tmp_path: Path) -> None:
    records = read_records(follow_up)
    plain = [replace(r, metadata={k: v for k, v in r.metadata.items() if k != "day"}) for r in records]
    write_manifest(follow_up.parent / "plain.csv", plain)
    train(follow_up.parent / "plain.csv", tmp_path / "run", ONE, **PLAIN)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["time"] is False
    found = []
    for order in (1, -1):
        mixed = sorted(plain, key=lambda r: (r.metadata["study_id"], order * int(r.path.stem.rpartition("-")[2])))
        write_manifest(follow_up.parent / "mixed.csv", mixed)
        evaluate(str(tmp_path / "run"), follow_up.parent / "mixed.csv", tmp_path / f"e{order}", **PLAIN)
        found.append([float(row["prob_worse"]) for row in rows(tmp_path / f"e{order}" / "predictions.csv")])
    np.testing.assert_allclose(*found, atol=1e-5)
    with pytest.raises(UserError, match="expected the column day"):
        evaluate(str(bag_run), follow_up.parent / "plain.csv", tmp_path / "e", **PLAIN)


@pytest.mark.parametrize("unit", ["study", "patient"])
def test_cross_validation_keeps_patients_together(unit: str, follow_up: Path, tmp_path: Path) -> None:
    """Two studies of each patient: they stay together, and with unit=patient they are one bag."""
    records = read_records(follow_up)
    person = {patient: f"q{i // 2}" for i, patient in enumerate(sorted({r.patient_id for r in records}))}
    label = {patient: records[[r.patient_id for r in records].index(patient)].label for patient in person}
    joined = {person[patient]: label[patient] for patient in person}
    changed = [replace(r, patient_id=person[r.patient_id], label=joined[person[r.patient_id]]) for r in records]
    both = [replace(r, label=["better", "worse"][int(r.patient_id[1:]) % 2]) for r in changed]
    write_manifest(follow_up.parent / "pairs.csv", both)
    config = replace(ONE, unit=unit, epochs=1, pooling="mean")
    summary = cross_validate(follow_up.parent / "pairs.csv", tmp_path / "run", config, n_folds=3, **PLAIN)
    split = SplitTable.read(tmp_path / "run" / "split.csv").rows
    assert len(split) == (18 if unit == "study" else 9)
    folds: dict[str, set[str]] = {}
    for row in split:
        folds.setdefault(row["patient_id"], set()).add(row["fold"])
    assert {len(found) for found in folds.values()} == {1}
    assert summary["pooled"]["n"] == len(split)
    assert "Which pictures counted" in (tmp_path / "run" / "report.html").read_text()
    assert len({*patient_keys(both)}) == 9
    evaluate(str(tmp_path / "run"), follow_up.parent / "pairs.csv", tmp_path / "e", **PLAIN)


def test_what_is_wrong_is_named_and_the_rest_goes_on(follow_up: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(follow_up.parent, tmp_path / "data")
    table = rows(folder / "manifest.csv")
    studies = sorted({row["study_id"] for row in table})
    table[0]["label"] = "worse" if table[0]["label"] == "better" else "better"
    for row in table:
        if row["study_id"] == studies[1]:
            (folder / row["path"]).write_bytes(b"no picture")
    last = [row for row in table if row["study_id"] == studies[2]][-1]
    (folder / last["path"]).write_bytes(b"no picture")
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    said: list[str] = []
    train(folder, tmp_path / "run", ONE, callbacks=Callbacks(say=said.append), **PLAIN)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sum(run["images"].values()) == 16
    text = "\n".join(run["left_out"])
    assert f"study {studies[0]}: 2 labels (better, worse); expected one: left out" in text
    assert f"study {studies[1]}: left out, because no picture can be read (6 tried)" in text
    assert last["path"] in text
    assert all(f"Warning: {line}" in said for line in run["left_out"])
    result = evaluate(str(tmp_path / "run"), folder, tmp_path / "e", **PLAIN)
    assert any(last["path"] in line for line in result["left_out"])
    assert any(f"{studies[1]}: no picture can be read" in line for line in result["left_out"])
    for row in table:
        (folder / row["path"]).write_bytes(b"no picture")
    with pytest.raises(DataError):
        train(folder, tmp_path / "none", CONFIG, **PLAIN)


def test_predict_gives_a_row_for_each_study(bag_run: Path, follow_up: Path, tmp_path: Path, cli: Any) -> None:
    status, out, err = cli("predict", bag_run, follow_up, "--format", "csv", "--heads", "--uncertainty")
    assert status == 0, err
    found = {row["study"]: row for row in csv.DictReader(out.splitlines())}
    assert len(found) == 18
    for row in rows(bag_run / "predictions.csv"):
        assert float(found[row["path"]]["prob_worse"]) == pytest.approx(float(row["prob_worse"]), abs=1e-4)
        assert found[row["path"]]["top_picture"].startswith("images/")
    status, out, err = cli("predict", bag_run, follow_up.parent / "images" / "p00001", "--format", "csv")
    assert (status, "expected the column day" in err) == (1, True)
    picture = next((follow_up.parent / "images" / "p00001").iterdir())
    status, out, _ = cli("predict", bag_run, picture, "--format", "csv")
    (row,) = csv.DictReader(out.splitlines())
    assert (status, row["pictures"], row["top_attention"]) == (0, "1", "1.0")
    status, _, err = cli("predict", bag_run, picture, "--window", "lung")
    assert (status, "--window: cannot be used with a model that predicts whole studies" in err) == (1, True)
    (tmp_path / "bad.png").write_text("no picture")
    status, out, err = cli("predict", bag_run, tmp_path / "bad.png", picture, "--format", "csv")
    assert (status, len(out.splitlines())) == (1, 3)
    assert "no picture can be read (1 tried)" in err


def test_what_takes_single_images_refuses_in_one_line(
    bag_run: Path, follow_up: Path, run: Path, phantoms: Path, tmp_path: Path, cli: Any
) -> None:
    for arguments in (
        ("export", bag_run, "-o", tmp_path / "model.onnx"),
        ("soup", bag_run, "-o", tmp_path / "soup"),
        ("push", bag_run, "user/name"),
        ("calibrate", bag_run, phantoms, "-o", tmp_path / "calibrated"),
        ("explain", bag_run, phantoms, "-o", tmp_path / "maps", "--measure"),
        ("demo", bag_run),
        ("train", phantoms, "-o", tmp_path / "t", "--model", f"local-dir:{bag_run}", "--no-audit"),
    ):
        status, _, err = cli(*arguments)
        assert status == 1, arguments
        assert "the model predicts all images of a study together" in err.splitlines()[-1], (arguments, err)
    with pytest.raises(UserError, match="together"):
        benchmark(["cvrnet"], follow_up, tmp_path / "b", CONFIG)
    with pytest.raises(UserError, match=r"predicts per study, .* per image; expected the same unit"):
        compare([str(bag_run), str(run)], follow_up, tmp_path / "c", **PLAIN)
    with pytest.raises(UserError, match="expected --freeze all or --freeze 0"):
        train(follow_up, tmp_path / "t", replace(CONFIG, freeze=2), **PLAIN)
    with pytest.raises(UserError, match="needs a CVR-Net"):
        train(follow_up, tmp_path / "t", replace(CONFIG, model="resnet18", encoders=()), **PLAIN)
    with pytest.raises(UserError, match="findings need unit='image'"):
        replace(CONFIG, findings=("A",))
    with pytest.raises(UserError, match="needs the manifest's column study_id"):
        train(phantoms, tmp_path / "t", CONFIG, **PLAIN)


def test_explain_draws_the_pictures_that_counted(bag_run: Path, follow_up: Path, tmp_path: Path, cli: Any) -> None:
    status, out, err = cli(
        "explain", bag_run, follow_up, "-o", tmp_path / "maps", "--target", "worse", "--format", "csv"
    )
    found = list(csv.DictReader(out.splitlines()))
    assert len({row["study"] for row in found}) == 18
    assert len(found) == 18 * 3
    assert status == int(any(row["error"] for row in found)), err
    for row in found:
        assert (row["class"], float(row["attention"]) > 0) == ("worse", True)
        assert (tmp_path / "maps" / row["figure"]).is_file()
        if row["network"]:
            assert (
                Image.open(tmp_path / "maps" / row["network"]).size == Image.open(follow_up.parent / row["path"]).size
            )
    cli("explain", bag_run, follow_up, "-o", tmp_path / "maps", "--overwrite")
    assert "exists; --overwrite" in cli("explain", bag_run, follow_up, "-o", tmp_path / "maps")[2]
    err = cli("explain", bag_run, follow_up, "-o", tmp_path / "more", "--all")[2]
    assert "--all: cannot be used with a model" in err


def test_a_whole_network_trains_on_small_bags(follow_up: Path, tmp_path: Path) -> None:
    config = replace(ONE, freeze=0, epochs=1, lr=1e-4)
    train(follow_up, tmp_path / "run", config, **PLAIN)
    run, other = load_checkpoint(tmp_path / "run"), InitialModel(replace(config, time=True), 2).model
    before, after = (dict(model.encoders.named_parameters()) for model in (other, run))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(read_attention([tmp_path / "run"], "val")) == len(rows(tmp_path / "run" / "predictions.csv"))
    evaluate(str(tmp_path / "run"), follow_up, tmp_path / "e", **PLAIN)
    again = {row["path"]: float(row["prob_worse"]) for row in rows(tmp_path / "e" / "predictions.csv")}
    for row in rows(tmp_path / "run" / "predictions.csv"):
        assert again[row["path"]] == pytest.approx(float(row["prob_worse"]), abs=1e-4)
    (tmp_path / "cts").mkdir()
    pictures = [(f"{i}.png", "AB"[i // 33 % 2], f"p{i // 33}", f"s{i // 33}") for i in range(12 * 33)]
    with (tmp_path / "cts" / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient_id", "study_id"), *pictures])
    for name, *_ in pictures:
        Image.new("L", (32, 32)).save(tmp_path / "cts" / name)
    with pytest.raises(UserError, match="without --freeze all, expected at most 32"):
        train(tmp_path / "cts", tmp_path / "t", config, **PLAIN)


def test_volumes_train_and_are_predicted(tmp_path: Path, cli: Any) -> None:
    """CTs as NIfTI in folders of their class, from training to a row for each file; a series of DICOM likewise."""
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for i in range(12):
        hu = rng.normal(-800 if i % 2 else -200, 200, (20, 24, 5 + i)).clip(-1024, 1000)
        folder = tmp_path / "cts" / ("NOR" if i % 2 else "NCP")
        folder.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), np.eye(4)), folder / f"{i}.nii.gz")
    (tmp_path / "cts" / "NOR" / "broken.nii").write_bytes(b"no volume")
    said: list[str] = []
    config = replace(ONE, slices=8, epochs=3)
    train(tmp_path / "cts", tmp_path / "run", config, callbacks=Callbacks(say=said.append), **PLAIN)
    assert any("broken.nii: a damaged NIfTI file" in line for line in said)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["unit"], sum(about["images"].values()), about["pictures"]) == ("study", 12, 5 + 6 + 7 + 9 * 8)
    preprocessing = Predictor.from_pretrained(tmp_path / "run").preprocessing
    assert (preprocessing.ct_window, preprocessing.slices) == ("lung", 8)
    evaluate(str(tmp_path / "run"), tmp_path / "cts", tmp_path / "e", **PLAIN)
    again = {row["path"]: float(row["prob_NCP"]) for row in rows(tmp_path / "e" / "predictions.csv")}
    for row in rows(tmp_path / "run" / "predictions.csv"):
        assert again[row["path"]] == pytest.approx(float(row["prob_NCP"]), abs=1e-4)
    ct_scan = volume(tmp_path / "series", "12345", "1.2.3", count=5)
    status, out, err = cli(
        "predict", tmp_path / "run", tmp_path / "cts" / "NCP" / "0.nii.gz", ct_scan, "--format", "csv"
    )
    found = list(csv.DictReader(out.splitlines()))
    assert (status, [row["pictures"] for row in found]) == (0, ["5", "5"]), err
    assert found[0]["patient_id"] == ""
    assert found[1]["patient_id"].startswith("p")
    assert "(attention pooling)" in (tmp_path / "e" / "report.html").read_text()


def test_phantoms_by_command(tmp_path: Path, cli: Any) -> None:
    status, out, err = cli("phantoms", "-o", tmp_path / "f", "--follow-up", "-n", 12, "--size", 64)
    assert (status, out.strip()) == (0, str(tmp_path / "f" / "manifest.csv")), err
    assert "--unit study" in err
    assert Image.open(tmp_path / "f" / rows(tmp_path / "f" / "manifest.csv")[0]["path"]).height == 64
    assert "--volumes cannot be used with" in cli("phantoms", "-o", tmp_path / "g", "--follow-up", "--volumes")[2]
    assert "--sources cannot be used with" in cli("phantoms", "-o", tmp_path / "g", "--volumes", "--shortcut")[2]
