"""Trackers get the rows of history.csv; TensorBoard's own reader reads them back."""

import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvrnet.errors import UserError
from cvrnet.training import TrainConfig, tracking
from cvrnet.workflows import cross_validate, train
from tests.conftest import PLAIN, TINY

CONFIG = TrainConfig(**{**TINY, "encoders": ("test_resnet",), "epochs": 2})


def logged(folder):
    """Every scalar in TensorBoard's folder, as {name: [(step, value), ...]}."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_has_the_history_of_each_fold(phantoms, tmp_path):
    run = tmp_path / "run"
    cross_validate(phantoms, run, CONFIG, n_folds=3, log="tensorboard", **PLAIN)
    for fold in ("fold-1", "fold-2", "fold-3"):
        with (run / fold / "history.csv").open() as file:
            history = list(csv.DictReader(file))
        found = logged(run / fold / "tensorboard")
        names = {"lr", "seconds", "train/loss", "val/loss", "val/accuracy", "val/f1_macro"}
        assert set(found) == names
        for name in names:
            expected = [(int(row["epoch"]), float(row[name.replace("/", "_")])) for row in history]
            assert found[name] == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]


def test_the_tracker_may_change_when_a_run_goes_on(phantoms, tmp_path):
    train(phantoms, tmp_path / "run", CONFIG, **PLAIN)
    more = TrainConfig(**{**CONFIG.to_dict(), "encoders": CONFIG.encoders, "epochs": 3})
    train(phantoms, tmp_path / "run", more, resume=True, log="tensorboard", **PLAIN)
    assert [step for step, _ in logged(tmp_path / "run" / "tensorboard")["val/loss"]] == [3]


def test_what_cannot_log_is_refused_before_a_folder_is_made(phantoms, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^log='excel'; expected one of tensorboard, wandb, trackio$"):
        train(phantoms, tmp_path / "run", CONFIG, log="excel", **PLAIN)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^log='wandb' needs a package; pip install wandb$"):
        train(phantoms, tmp_path / "run", CONFIG, log="wandb", **PLAIN)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_is_one_line(phantoms, tmp_path, monkeypatch):
    def no_login(self):
        raise ConnectionError("no API key\nsecond line")

    monkeypatch.setattr(tracking.WandBTracker, "start", no_login)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=r"^log='wandb' does not start: no API key$"):
        train(phantoms, tmp_path / "run", CONFIG, log="wandb", **PLAIN)
