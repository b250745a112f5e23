"""Cross-validation: the folds of v1 Fig. 3, runs that go on, machines that share, the table of scores."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

from cvrnet.data import ImageCache, read_image, read_records, write_manifest
from cvrnet.data.splits import fold_sets
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.runs.predictions import PredictionTable
from cvrnet.runs.split_table import read_folds
from cvrnet.training import Progress, TrainConfig, model
from cvrnet.workflows import Callbacks, cross_validate
from cvrnet.workflows.collect import collect, summary_rows
from cvrnet.workflows.evaluate import predict_records
from tests.conftest import PLAIN, TINY
from tests.support.pairs import run_pair

CONFIG = TrainConfig(**{**TINY, "encoders": ("test_resnet",), "img_size": 32, "epochs": 1})


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def crossval(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossval") / "run"
    cross_validate(phantoms, folder, CONFIG, n_folds=3, **PLAIN)
    return folder


def test_every_image_is_tested_once_and_no_patient_is_shared(crossval, phantoms):
    records = read_records(phantoms)
    fold = {row["path"]: int(row["fold"]) for row in rows(crossval / "split.csv")}
    assert fold.keys() == {r.name for r in records}
    patients: dict[str, set[int]] = {}
    for r in records:
        patients.setdefault(r.patient_id, set()).add(fold[r.name])
    assert all(len(folds) == 1 for folds in patients.values())
    for k in (1, 2, 3):
        predicted = rows(crossval / f"fold-{k}/predictions.csv")
        assert {r["path"] for r in predicted if r["split"] == "test"} == {n for n, f in fold.items() if f == k}
        assert {r["path"] for r in predicted if r["split"] == "val"} == {n for n, f in fold.items() if f == k % 3 + 1}


def test_the_summary_is_scikit_learns(crossval):
    summary = json.loads((crossval / "summary.json").read_text())
    tested = [r for k in (1, 2, 3) for r in rows(crossval / f"fold-{k}/predictions.csv") if r["split"] == "test"]
    y, guess = [r["label"] for r in tested], [r["prediction"] for r in tested]
    assert summary["pooled"]["weighted"]["f1"] == pytest.approx(f1_score(y, guess, average="weighted"), abs=1e-12)
    assert summary["pooled"]["macro"]["recall"] == pytest.approx(recall_score(y, guess, average="macro"), abs=1e-12)
    accuracies = [f["accuracy"] for f in summary["folds"]]
    assert summary["mean_std"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert summary["mean_std"]["accuracy"]["std"] == pytest.approx(np.std(accuracies), abs=1e-12)
    table = summary_rows(summary)
    assert [row["fold"] for row in table] == ["1", "2", "3", "mean"]
    assert table[-1]["accuracy"] == f"{np.mean(accuracies):.3f} ± {np.std(accuracies):.3f}"
    assert {p.stem for p in (crossval / "figures").iterdir()} == {
        "confusion_matrix", "roc", "precision_recall", "calibration", "decision_curves", "heads", "learning_curves",
        "risk_coverage",
    }  # fmt: skip


def test_a_run_is_an_ensemble(crossval, phantoms):
    assert len(Predictor.from_pretrained(crossval).models) == 3


def test_an_interrupted_cross_validation_goes_on(crossval, phantoms, tmp_path):
    def stop_in_fold_2(name, fold):
        def step(images, loss):
            if fold == 2:
                raise KeyboardInterrupt

        return Progress(step=step)

    with pytest.raises(KeyboardInterrupt):
        cross_validate(
            phantoms, tmp_path / "run", CONFIG, n_folds=3, callbacks=Callbacks(training=stop_in_fold_2), **PLAIN
        )
    with pytest.raises(UserError, match="--resume continues it"):
        cross_validate(phantoms, tmp_path / "run", CONFIG, n_folds=3, **PLAIN)
    trained = []
    cross_validate(
        phantoms,
        tmp_path / "run",
        CONFIG,
        n_folds=3,
        resume=True,
        callbacks=Callbacks(training=lambda name, fold: Progress(end=trained.append)),
        **PLAIN,
    )
    assert len(trained) == 2  # folds 2 and 3
    for k in (1, 2, 3):
        name = f"fold-{k}/model.safetensors"
        assert (tmp_path / "run" / name).read_bytes() == (crossval / name).read_bytes()


def test_every_image_is_decoded_once_for_all_folds_and_epochs(phantoms, tmp_path, monkeypatch):
    decoded = []

    def read(path, mode, *window, **settings):
        decoded.append(path)
        return read_image(path, mode, *window, **settings)

    for module in ("cvrnet.data.cache", "cvrnet.data.preprocessing"):
        monkeypatch.setattr(f"{module}.read_image", read)
    config = replace(CONFIG, model="test_resnet", encoders=(), epochs=2)
    cross_validate(phantoms, tmp_path / "run", config, n_folds=3, cache_folder=tmp_path / "cache", **PLAIN)
    assert sorted(decoded) == sorted(r.path for r in read_records(phantoms))


@pytest.mark.parametrize("freeze", [0, "all"])
def test_the_network_is_made_once_for_all_folds(phantoms, tmp_path, monkeypatch, freeze):
    made, create = [], model.create_for_training
    monkeypatch.setattr(model, "create_for_training", lambda *settings: made.append(create(*settings)) or made[-1])
    cross_validate(phantoms, tmp_path / "run", replace(CONFIG, freeze=freeze), n_folds=3, **PLAIN)
    assert len(made) == 1
    started = made[0].state_dict()
    torch.manual_seed(CONFIG.seed)
    assert all(torch.equal(value, started[name]) for name, value in create(CONFIG, 3).state_dict().items())  # untouched


@pytest.mark.both_precisions
def test_decoded_images_are_answered_as_files_are(crossval, phantoms, tmp_path):
    predictor, records = Predictor.from_pretrained(crossval), read_records(phantoms)[:7]
    cache = ImageCache(predictor.preprocessing.input_size[1:], "RGB", folder=tmp_path)
    by_head = join_batches(predict_cached(predictor, records, cache, 3))
    decoded = PredictionTable.from_records(records, predictor.classes, by_head.mean(0), by_head)
    files = predict_records(predictor, records, batch_size=3)
    np.testing.assert_allclose(decoded.probabilities, files.probabilities, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(decoded.heads, files.heads)
    assert (decoded.names, decoded.patients) == (files.names, files.patients)


def test_machines_take_one_fold_each(crossval, phantoms, tmp_path):
    folders = [tmp_path / f"machine-{k}" for k in (1, 2, 3)]
    for k, folder in enumerate(folders, start=1):
        cross_validate(phantoms, folder, CONFIG, n_folds=3, only_fold=k, **PLAIN)
        assert not (folder / "summary.json").exists()
    with pytest.raises(UserError, match="lacks fold-2, fold-3"):
        collect(folders[0])
    for k, folder in enumerate(folders[1:], start=2):
        shutil.copytree(folder / f"fold-{k}", folders[0] / f"fold-{k}")
    assert collect(folders[0]) == json.loads((crossval / "summary.json").read_text())


def test_the_same_folds_for_another_model(crossval, phantoms, tmp_path):
    config = replace(CONFIG, encoders=(), model="test_vit", seed=5)
    cross_validate(phantoms, tmp_path / "run", config, split_from=crossval / "split.csv", only_fold=1, **PLAIN)
    assert rows(tmp_path / "run/split.csv") == rows(crossval / "split.csv")


def test_a_resumed_run_keeps_its_folds(crossval, phantoms, tmp_path):
    """Models that are there were trained by the folds of split.csv: neither another number nor another table fits."""
    before = (crossval / "split.csv").read_bytes()
    with pytest.raises(UserError, match=r"another run \(folds is now 4, was 3\)"):
        cross_validate(phantoms, crossval, CONFIG, n_folds=4, resume=True, **PLAIN)
    turned = {row["path"]: int(row["fold"]) % 3 + 1 for row in rows(crossval / "split.csv")}
    other = tmp_path / "split.csv"
    other.write_text("path,fold\n" + "".join(f"{name},{fold}\n" for name, fold in turned.items()))
    with pytest.raises(UserError, match=r"split\.csv, .* differs from the present split; --overwrite replaces the run"):
        cross_validate(phantoms, crossval, CONFIG, split_from=other, resume=True, **PLAIN)
    assert (crossval / "split.csv").read_bytes() == before
    copy = shutil.copytree(crossval, tmp_path / "copy")
    config = replace(CONFIG, model="test_resnet", encoders=())
    cross_validate(phantoms, copy, config, n_folds=4, only_fold=4, overwrite=True, **PLAIN)
    assert {row["fold"] for row in rows(copy / "split.csv")} == {"1", "2", "3", "4"}  # made anew
    assert sorted(path.name for path in copy.glob("fold-*")) == ["fold-4"]


def test_a_fold_that_lacks_a_class_is_refused_before_anything_is_trained(phantoms, tmp_path):
    folds = {"NOR": 1, "CVP": 2, "NCP": 3}
    table = tmp_path / "split.csv"
    table.write_text("path,fold\n" + "".join(f"{r.name},{folds[r.label]}\n" for r in read_records(phantoms)))
    manifest = phantoms.parent / "no-patients.csv"
    write_manifest(manifest, [replace(r, patient_id="") for r in read_records(phantoms)])
    with pytest.raises(UserError, match="no training image of class CVP, NOR"):
        cross_validate(manifest, tmp_path / "run", CONFIG, split_from=table, **PLAIN)
    with pytest.raises(UserError, match="there is no fold 4; expected 1 to 3"):
        cross_validate(phantoms, tmp_path / "run", CONFIG, n_folds=3, only_fold=4, **PLAIN)
    assert not (tmp_path / "run").exists()


def test_an_independent_source_stands_beside(phantoms, tmp_path):
    summary = cross_validate(phantoms, tmp_path / "run", CONFIG, n_folds=3, test_source="site-b", **PLAIN)
    split = rows(tmp_path / "run/split.csv")
    assert all((row["fold"] == "independent") == (row["source"] == "site-b") for row in split)
    outside = summary["independent"]
    n = sum(row["source"] == "site-b" for row in split)
    assert [fold["n"] for fold in outside["folds"]] == [n] * 3
    drop = np.mean([a["accuracy"] - b["accuracy"] for a, b in zip(summary["folds"], outside["folds"], strict=True)])
    assert outside["drop_in_accuracy"]["mean"] == pytest.approx(drop, abs=1e-12)
    assert summary_rows(summary)[-1]["fold"] == "on site-b"


def test_rows_of_the_test_split_are_in_no_fold_and_scored_apart(phantoms, tmp_path):
    records = read_records(phantoms)
    patients = sorted({r.patient_id for r in records if r.label == "NOR"})
    held = {r.name for r in records if r.patient_id in patients[:2]}
    manifest = phantoms.parent / "split-column.csv"
    write_manifest(manifest, [replace(r, split="test" if r.name in held else "") for r in records])
    summary = cross_validate(manifest, tmp_path / "run", CONFIG, n_folds=3, **PLAIN)
    assert {row["path"] for row in rows(tmp_path / "run/split.csv") if row["fold"] == "independent"} == held
    assert [fold["n"] for fold in summary["independent"]["folds"]] == [len(held)] * 3
    assert summary_rows(summary)[-1]["fold"] == "on split=test"
    for k in (1, 2, 3):
        by_set = {row["path"]: row["split"] for row in rows(tmp_path / f"run/fold-{k}/predictions.csv")}
        assert all((by_set.get(name) == "independent") == (name in held) for name in (r.name for r in records))


def test_what_does_not_fit_is_told(crossval, phantoms, tmp_path):
    records = read_records(phantoms)
    with pytest.raises(UserError, match="2 folds; expected at least 3"):
        cross_validate(phantoms, tmp_path / "run", CONFIG, n_folds=2, **PLAIN)
    with pytest.raises(UserError, match="unknown test source 'mars'"):
        cross_validate(phantoms, tmp_path / "run", CONFIG, n_folds=3, test_source="mars", **PLAIN)
    with pytest.raises(UserError, match=r"another run \(lr is now 0.5"):
        cross_validate(phantoms, crossval, replace(CONFIG, lr=0.5), n_folds=3, resume=True, **PLAIN)
    few = phantoms.parent / "few.csv"
    write_manifest(few, [replace(r, patient_id=f"only-{r.label}") for r in records])
    with pytest.raises(UserError, match="patient"):
        cross_validate(few, tmp_path / "run", CONFIG, n_folds=3, **PLAIN)
    other = tmp_path / "split.csv"
    other.write_text("path,fold\nelsewhere.png,1\n")
    with pytest.raises(UserError, match=f"gives no fold for {len(records)} of {len(records)} images"):
        read_folds(other, records)
    other.write_text("name\nx\n")
    with pytest.raises(UserError, match=r"split\.csv is damaged: it has no column path, fold"):
        read_folds(other, records)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"is not a finished run: it has no run\.json"):
        collect(tmp_path)


def test_fold_sets_are_a_partition():
    from pathlib import Path

    from cvrnet.data import Record

    records = [Record(Path(str(i)), str(i)) for i in range(10)]
    folds = [i % 5 + 1 for i in range(10)]
    for fold in range(1, 6):
        sets = fold_sets(records, folds, fold)
        assert sorted(r.name for members in sets.values() for r in members) == [r.name for r in records]
        assert {len(members) for members in sets.values()} == {6, 2}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_processes_share_each_fold(crossval, phantoms, tmp_path):
    """The same folds, every epoch scored once, one summary; also of a run that goes on."""
    options = ["--model", "cvrnet", "--encoders", "test_resnet", "--no-pretrained", "--img-size", "32", "--folds", "3"]
    command = ["crossval", phantoms, "-o", tmp_path / "run", *options, "--epochs", "1", "--no-audit"]
    first, again = (run_pair(tmp_path / "log", [*command, *more]) for more in ([], ["--resume"]))
    out, err = (a + b for a, b in zip(first, again, strict=True))
    assert rows(tmp_path / "run/split.csv") == rows(crossval / "split.csv")
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {p.name for p in crossval.iterdir()}
    summary, alone = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "run", crossval))
    assert summary.keys() == alone.keys()
    assert [fold["n"] for fold in summary["folds"]] == [fold["n"] for fold in alone["folds"]]
    for k in (1, 2, 3):
        (epoch,) = rows(tmp_path / f"run/fold-{k}/history.csv")
        scored = json.loads((tmp_path / f"run/fold-{k}/metrics.json").read_text())["val"]
        assert float(epoch["val_loss"]) == pytest.approx(scored["log_loss"], abs=1e-6)
    said = [line.split()[0] for line in out.splitlines()]
    assert said == 2 * ["fold", "1", "2", "3", "mean"]  # each command says it once
    assert err.count("fold 3\n") == 2


def test_the_command(cli, phantoms, tmp_path):
    tiny = ["--encoders", "test_resnet", "--no-pretrained", "--img-size", "32", "--epochs", "1", "--lr", "1e-3"]
    tiny += ["--no-audit", "--no-maps"]
    status, out, err = cli("crossval", phantoms, "-o", tmp_path / "run", "--folds", 3, *tiny)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["fold", "1", "2", "3", "mean"]
    assert "fold 3\n" in err
    assert cli("crossval", "--collect", tmp_path / "run")[1] == out
    assert cli("crossval")[0] == 2
    assert cli("crossval", phantoms, "--collect", tmp_path / "run")[0] == 2
