"""Which of a trained run's models may be asked about which image: only one that was not trained on its patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvrnet.data import Record
from cvrnet.runs.layout import CONFIG, INDEPENDENT, SPLIT, STATE
from cvrnet.runs.split_table import SplitTable


@dataclass(frozen=True)
class HeldOut:
    """Whom to ask about each image.

    Attributes:
        models: MODEL arguments, each of a single model or, for a model that is no run, the argument itself.
        of: Name of an image to the indices of the models that may be asked about it; others were trained on it.
        known: Whether a split.csv told which images the models were trained on.
    """

    models: list[str]
    of: dict[str, tuple[int, ...]]
    known: bool


def held_out(model: str | Path, records: Sequence[Record]) -> HeldOut:
    """Read the run's split.csv, where MODEL is a run or one fold of a run.

    - A cross-validation: an image is asked of the model of the fold that it tests, an image outside the folds of all;
      folds that are not trained to the end are left out.
    - A run with one model: images of its validation and test sets only.
    - An image that is not in split.csv goes by its patient; if that is not there either, it is new to all models.
    - Any other model: all images, since nobody knows what it was trained on.
    """
    folder = Path(str(model).removeprefix("local-dir:"))
    fold = _fold_number(folder)
    run = folder.parent if fold is not None and (folder.parent / SPLIT).is_file() else folder
    if not (run / SPLIT).is_file():
        return HeldOut([str(model)], {r.name: (0,) for r in records}, known=False)
    if (run / CONFIG).is_file():
        folders = {"val": run, "test": run}
    else:
        folders = {str(_fold_number(path.parent)): path.parent for path in run.glob(f"fold-*/{CONFIG}")}
        finished = {name: path for name, path in folders.items() if not (path / STATE).exists()}
        folders = {name: path for name, path in finished.items() if run == folder or name == str(fold)}
    models = sorted({str(path) for path in folders.values()})
    index = {name: (models.index(str(path)),) for name, path in folders.items()}
    split = SplitTable.read(run / SPLIT)
    of: dict[str, tuple[int, ...]] = {}
    for r in records:
        part = split.fold_of(r)
        if part is None or part == INDEPENDENT:
            of[r.name] = tuple(range(len(models)))
        elif part in index:
            of[r.name] = index[part]
    return HeldOut(models, of, known=True)


def _fold_number(folder: Path) -> int | None:
    match = re.fullmatch(r"fold-(\d+)", folder.resolve().name)
    return int(match[1]) if match else None
