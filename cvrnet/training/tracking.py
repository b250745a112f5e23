"""Report each epoch to TensorBoard, Weights & Biases or Trackio, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from cvrnet.errors import UserError
from cvrnet.training.config import TrainConfig
from cvrnet.training.loop import Progress

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "cvrnet"  #: the project in which Weights & Biases and Trackio list the runs


def check_tracker(name: str) -> None:
    """Raise UserError if a tracker does not exist or is not installed; "" means no tracker."""
    if name and name not in TRACKERS:
        raise UserError(f"log={name!r}; expected one of {', '.join(TRACKERS)}")
    if name and find_spec(name) is None:
        raise UserError(f"log={name!r} needs a package; pip install {name}")


@contextmanager
def tracked(tracker: str, progress: Progress, run: str, folder: Path, config: TrainConfig) -> Iterator[Progress]:
    """Yield ``progress`` with callbacks that also report each epoch's row of history.csv to a tracker.

    TensorBoard writes to ``folder/tensorboard``. The other trackers list the training under the name ``run`` in the
    project `PROJECT`. Every tracker gets the config and the scores, and nothing about the images. If ``tracker`` is "",
    nothing is reported.

    Raises:
        UserError: The tracker does not start, for example because its service needs a login.
    """
    if not tracker:
        yield progress
        return
    reports = _start(tracker, run, folder)
    try:
        reports.store_init_configuration({key: _plain(value) for key, value in config.to_dict().items()})

        def end(row: dict[str, Any]) -> None:
            progress.end(row)
            reports.log(_scalars(row), step=row["epoch"])

        yield replace(progress, end=end)
    finally:
        reports.finish()


def _start(tracker: str, run: str, folder: Path) -> GeneralTracker:
    made: GeneralTracker
    if tracker == "tensorboard":
        made = TensorBoardTracker(tracker, folder)
    else:
        made = {"wandb": WandBTracker, "trackio": TrackioTracker}[tracker](PROJECT, name=run)
    try:
        made.start()
    except Exception as error:  # each tracker raises its own types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"log={tracker!r} does not start: {lines[0]}") from error
    return made


def _plain(value: Any) -> bool | int | float | str | None:
    """Return a setting in a form that trackers accept: lists and dictionaries become text."""
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch, with names such as ``val/loss``, which trackers show as groups.

    >>> _scalars({"epoch": 1, "lr": 0.1, "val_f1_macro": 0.5, "best": 1})
    {'lr': 0.1, 'val/f1_macro': 0.5}
    """
    return {name.replace("_", "/", 1): value for name, value in row.items() if name not in ("epoch", "best")}
