"""--resume with more epochs goes on, as if the run had had them from the start (bit for bit on a CPU)."""

import csv
import json
import shutil
from dataclasses import replace

import pytest

from cvrnet.errors import UserError
from cvrnet.training import Progress, TrainConfig
from cvrnet.workflows import Callbacks, cross_validate, train
from cvrnet.workflows.collect import collect
from tests.conftest import PLAIN, TINY

# The learning rate falls after each epoch without improvement, so that its schedule must go on as well.
CONFIG = TrainConfig(
    **{**TINY, "model": "test_efficientnet", "encoders": (), "img_size": 32, "epochs": 3, "lr": 0.02, "lr_patience": 1}
)
SHORT = replace(CONFIG, epochs=1)


def history(folder):
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def results(folder):
    names = ["model.safetensors", "metrics.json", "predictions.csv"]
    return [(folder / name).read_bytes() for name in names], history(folder)


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("epochs") / "whole"
    train(phantoms, folder, CONFIG, **PLAIN)
    assert len({row["lr"] for row in history(folder)}) > 1
    return folder


def test_a_finished_training_goes_on(whole, phantoms, tmp_path):
    run = tmp_path / "run"
    train(phantoms, run, SHORT, **PLAIN)
    trained = []
    callbacks = Callbacks(training=lambda name, fold: Progress(end=trained.append))
    train(phantoms, run, CONFIG, resume=True, callbacks=callbacks, **PLAIN)
    assert [row["epoch"] for row in trained] == [2, 3]
    assert results(run) == results(whole)
    assert json.loads((run / "run.json").read_text())["config"]["epochs"] == 3
    train(phantoms, run, CONFIG, resume=True, callbacks=callbacks, **PLAIN)
    assert len(trained) == 2  # it is finished


def test_an_unfinished_training_goes_on(whole, phantoms, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    callbacks = Callbacks(training=lambda name, fold: Progress(end=stop))
    with pytest.raises(KeyboardInterrupt):
        train(phantoms, tmp_path / "run", replace(CONFIG, epochs=2), callbacks=callbacks, **PLAIN)
    train(phantoms, tmp_path / "run", CONFIG, resume=True, **PLAIN)
    assert results(tmp_path / "run") == results(whole)


def test_an_interruption_while_it_goes_on_loses_nothing(whole, phantoms, tmp_path):
    run = tmp_path / "run"
    train(phantoms, run, SHORT, **PLAIN)
    before = (run / "metrics.json").read_bytes()

    def stop(images, loss):
        raise KeyboardInterrupt

    callbacks = Callbacks(training=lambda name, fold: Progress(step=stop))
    with pytest.raises(KeyboardInterrupt):
        train(phantoms, run, CONFIG, resume=True, callbacks=callbacks, **PLAIN)
    assert (run / "metrics.json").read_bytes() == before
    train(phantoms, run, CONFIG, resume=True, **PLAIN)
    assert results(run) == results(whole)


def test_every_fold_of_a_cross_validation_goes_on(phantoms, tmp_path):
    two = replace(CONFIG, epochs=2)
    cross_validate(phantoms, tmp_path / "run", SHORT, n_folds=3, **PLAIN)
    summary = cross_validate(phantoms, tmp_path / "run", two, n_folds=3, resume=True, **PLAIN)
    assert summary == cross_validate(phantoms, tmp_path / "whole", two, n_folds=3, **PLAIN)
    for fold in (1, 2, 3):
        assert results(tmp_path / f"run/fold-{fold}") == results(tmp_path / f"whole/fold-{fold}")


def test_what_cannot_go_on_is_refused_and_named(whole, phantoms, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(UserError, match=r"another run \(epochs is now 2, was 3\)"):
        train(phantoms, run, replace(CONFIG, epochs=2), resume=True, **PLAIN)
    with pytest.raises(UserError, match=r"another run \(lr is now 0.5, was 0.02\)"):
        train(phantoms, run, replace(CONFIG, epochs=9, lr=0.5), resume=True, **PLAIN)
    (run / "last-epoch.pt").unlink()
    with pytest.raises(UserError, match=r"run ended after 3 epochs and has no last-epoch\.pt to continue from"):
        train(phantoms, run, replace(CONFIG, epochs=9), resume=True, **PLAIN)
    assert results(run) == results(whole)
    assert (run / "run.json").read_bytes() == (whole / "run.json").read_bytes()


def test_a_training_that_stopped_by_itself_has_no_more_epochs(phantoms, tmp_path):
    """More epochs change nothing after `patience` epochs without improvement, and no state is kept for them."""
    config = replace(CONFIG, lr=1e-9, monitor="val_accuracy", patience=1, epochs=9)  # too slow to improve each time
    train(phantoms, tmp_path / "run", config, **PLAIN)
    before = results(tmp_path / "run")
    assert len(before[1]) < 9
    assert not (tmp_path / "run/last-epoch.pt").exists()
    train(phantoms, tmp_path / "run", replace(config, epochs=20), resume=True, **PLAIN)
    assert results(tmp_path / "run") == before


def test_folds_of_different_epochs_are_not_joined(phantoms, tmp_path):
    run = tmp_path / "run"
    two = replace(CONFIG, epochs=2)
    for fold, config in ((1, SHORT), (2, two), (3, two)):
        cross_validate(phantoms, run, config, n_folds=3, only_fold=fold, **PLAIN)
    with pytest.raises(UserError, match=r"run: fold-1 had fewer training epochs than the run's 2; .* --resume"):
        collect(run)
    cross_validate(phantoms, run, two, n_folds=3, only_fold=1, **PLAIN)
    assert len(collect(run)["folds"]) == 3
