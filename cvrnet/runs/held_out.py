"""Find the models of a run that were not trained on an image or on its patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cvrnet.data import Record
from cvrnet.runs.layout import CONFIG, INDEPENDENT, SPLIT, STATE, fold_folders, fold_number
from cvrnet.runs.split_table import SplitTable

_HELD_OUT = ("test", INDEPENDENT)  # names of the set that no model is trained or validated on; "test" in version 0.1


@dataclass(frozen=True)
class HeldOut:
    """The models of a run, and for each image the models that were not trained on its patient."""

    models: list[str]  #: the folder of each model of the run; without a split.csv, only the MODEL that `held_out` got
    models_for_image: dict[str, tuple[int, ...]]  #: image name -> indices of the models not trained on its patient
    known: bool  #: whether a split.csv names the images that the models were trained on


def held_out(model: str | Path, records: Sequence[Record]) -> HeldOut:
    """Find the models that may predict each image, from the split.csv of MODEL (a run, or a fold of a run).

    - In a cross-validation, the model of the fold that tests an image may predict it. All models may predict an image
      outside the folds. Folds whose training is not finished are left out.
    - In a run with one model, the model may predict only images outside its training set.
    - An image that is not in split.csv counts as part of its patient's fold. If the patient is not in split.csv either,
      all models may predict the image.
    - A model without a split.csv may predict all images, because its training images are not known.
    """
    run, fold = _run_of(model)
    if not (run / SPLIT).is_file():
        return HeldOut([str(model)], {r.name: (0,) for r in records}, known=False)
    if (run / CONFIG).is_file():
        folders = {"val": run}
    else:
        finished = {n: folder for n, folder in fold_folders(run).items() if not (folder / STATE).exists()}
        folders = {str(n): folder for n, folder in finished.items() if fold in (None, n)}
    index: dict[str | None, tuple[int, ...]] = {part: (i,) for i, part in enumerate(folders)}
    index |= dict.fromkeys((None, *_HELD_OUT), tuple(range(len(folders))))
    split = SplitTable.read(run / SPLIT)
    parts = {r.name: split.fold_of(r) for r in records}
    models_for_image = {name: index[part] for name, part in parts.items() if part in index}
    return HeldOut([str(folder) for folder in folders.values()], models_for_image, known=True)


def trained_on(model: str | Path) -> SplitTable | None:
    """Return a table of the images that MODEL was trained or validated on; None if it has no split.csv."""
    run, fold = _run_of(model)
    if not (run / SPLIT).is_file():
        return None
    return SplitTable.read(run / SPLIT).without({*_HELD_OUT, str(fold)})


def _run_of(model: str | Path) -> tuple[Path, int | None]:
    """Return the folder that may hold MODEL's split.csv (for a fold: the run's folder), and the fold's number."""
    folder = Path(str(model).removeprefix("local-dir:"))
    fold = fold_number(folder.resolve().name)
    if fold is not None and (folder.resolve().parent / SPLIT).is_file():
        return folder.resolve().parent, fold
    return folder, None
