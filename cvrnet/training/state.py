"""Save the state of a training in one file in the model's folder, and load it to resume the training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from cvrnet.errors import UserError
from cvrnet.files import atomic_write, damaged_files
from cvrnet.runs.layout import HISTORY, LAST_STATE, METRICS, STATE
from cvrnet.runs.read import read_rows
from cvrnet.training.config import TrainConfig


@dataclass
class State:
    """Progress of training: the finished epochs, the best epoch by ``TrainConfig.monitor``, and the history."""

    epoch: int = 0  #: number of finished epochs
    best: float = -math.inf  #: best monitored value so far; higher is better: for ``val_loss``, it is the negative loss
    best_epoch: int = 0  #: the epoch of the value ``best``
    history: list[dict[str, Any]] = field(default_factory=list)  #: the rows of history.csv


def save_state(path: Path, parts: dict[str, Any], state: State) -> None:
    """Write a training's state atomically; every value of ``parts`` (model, optimiser, ...) has a ``state_dict``."""
    with (
        atomic_write(path) as temporary,
        temporary.open("wb") as file,
    ):  # an open file: given a path, torch would store the path's name in the file
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"state": vars(state)}, file)


def restore_state(path: Path, parts: dict[str, Any]) -> State:
    """Load each part's ``state_dict`` from a file that `save_state` wrote, and return the `State` in the file.

    If there is no file, the parts do not change, and the result is a new `State`.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return State()
    try:
        with damaged_files(path):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            saved.setdefault("scaler", {})  # files of version 0.1 have no scaler
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            return State(**saved["state"])
    except (UserError, RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged; delete it to train from the start") from error


def close_state(folder: Path, state: State, config: TrainConfig) -> None:
    """Delete the state of a finished training, or rename it to ``LAST_STATE``.

    If training ended because ``patience`` epochs brought no improvement, the state is deleted. If it ended after the
    last epoch, the state is renamed, so that a later job with more epochs can continue from it.
    """
    if state.epoch - state.best_epoch >= config.patience:
        (folder / LAST_STATE).unlink(missing_ok=True)
        (folder / STATE).unlink(missing_ok=True)
    elif (folder / STATE).is_file():
        (folder / STATE).replace(folder / LAST_STATE)


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """Return whether the folder has the results of training, and no epochs are left to train.

    Raises:
        UserError: The config has more epochs than the finished training, but the state to continue from is missing.
    """
    if not (folder / METRICS).is_file() or (folder / STATE).is_file():
        return False
    history = read_rows(folder / HISTORY, ("epoch", "best"))
    with damaged_files(folder / HISTORY):
        best = max((int(row["epoch"]) for row in history if row["best"] == "1"), default=0)
    if len(history) >= config.epochs or len(history) - best >= config.patience:
        return True
    if not (folder / LAST_STATE).is_file():
        raise UserError(
            f"the run in {folder} ended after {len(history)} epochs and has no {LAST_STATE} to continue from; "
            f"--overwrite trains {config.epochs} epochs from the start"
        )
    return False
