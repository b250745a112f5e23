"""Save and load what is needed to resume an interrupted training, in one file in the model's folder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from cvrnet.errors import UserError
from cvrnet.files import atomic_write, damaged_files


@dataclass
class State:
    """Progress of a training: finished epochs, the best value so far, and the history."""

    epoch: int = 0  #: epochs that are finished
    best: float = -math.inf  #: the best value of what is monitored so far; higher is better
    best_epoch: int = 0  #: its epoch
    history: list[dict[str, Any]] = field(default_factory=list)  #: the rows of history.csv


def save_state(path: Path, parts: dict[str, Any], state: State) -> None:
    """Write a training's state atomically; every value of ``parts`` (model, optimiser, ...) has a ``state_dict``."""
    with atomic_write(path) as temporary:
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"state": vars(state)}, temporary)


def restore_state(path: Path, parts: dict[str, Any]) -> State:
    """Load each part's ``state_dict`` from a file of `save_state`; refuse a damaged file. No file: a new State."""
    if not path.is_file():
        return State()
    try:
        with damaged_files(path):
            saved = torch.load(path, map_location="cpu", weights_only=True)
            saved.setdefault("scaler", {})  # files of version 0.1 have none
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            return State(**saved["state"])
    except (UserError, RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged; delete it to train from the start") from error
