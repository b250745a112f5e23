"""Many trainings in order: the papers' cross-validation (v1 Fig. 3), resumable fold by fold (extra ``train``)."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import Record, make_folds
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.runs.layout import INDEPENDENT, SPLIT
from cvrnet.runs.split_table import split_row
from cvrnet.training import Progress, TrainConfig, create_for_training, make_accelerator
from cvrnet.workflows.collect import collect
from cvrnet.workflows.train import check_test_source, check_training_set, describe_run, load_data, open_run, train_sets


def cross_validate(
    data: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    n_folds: int = 5,
    classes: Sequence[str] | None = None,
    test_source: str = "",
    split_from: Path | None = None,
    only_fold: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    progress: Callable[[int], Progress] | None = None,
    on_decode: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Train and test every fold: fold k tests, fold k+1 validates, the others train (v1 Fig. 3).

    Folds are stratified by label and source, never share a patient, and are saved before anything is trained.

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The run folder: run.json, split.csv, fold-1/ and so on, summary.json, figures/, tables/, report.html.
        config: The protocol.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        test_source: A source that is in no fold, and that every fold's model is tested on as well (v2's independent
            set).
        split_from: A split.csv whose folds are taken instead of new ones.
        only_fold: Train this fold alone; `cvrnet.report.collect` joins the folds later.
        resume: Go on with the run that is there.
        overwrite: Replace the run that is there.
        cache_folder: Where decoded images are kept; each is decoded once for all folds.
        progress: Given a fold's number, whom to tell about its training.
        on_decode: Called after each decoded image with the number done and the number to do.

    Returns:
        What summary.json holds, or with ``only_fold`` what that fold's metrics.json holds.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: The run folder exists, or the data set does not allow these folds.
    """
    config, output = config or TrainConfig(), Path(output)
    if n_folds < 3:
        raise UserError(f"{n_folds} folds; expected at least 3: one tests, one validates, the others train")
    if only_fold is not None and not 1 <= only_fold <= n_folds:
        raise UserError(f"there is no fold {only_fold}; expected 1 to {n_folds}")
    accelerator = make_accelerator(config)
    records, names, cache = load_data(data, config, accelerator, classes, cache_folder, on_decode)
    check_test_source(records, test_source)
    independent = [r for r in records if test_source and r.source == test_source]
    inside = [r for r in records if not test_source or r.source != test_source]
    _refuse_shared_patients(inside, independent)
    check_training_set(inside, names)
    folds = read_folds(split_from, inside) if split_from else make_folds(inside, n_folds, config.seed)
    n_folds = max(folds)

    if accelerator.is_main_process:
        if not output.exists():
            create_for_training(config, len(names))  # what fails in it leaves no run folder behind
        description = describe_run("crossval", data, records, config, names, test_source) | {"folds": n_folds}
        open_run(output, description, resume or only_fold is not None, overwrite)
        rows = [split_row(r, fold) for r, fold in zip(inside, folds, strict=True)]
        write_csv(output / SPLIT, [*rows, *(split_row(r, INDEPENDENT) for r in independent)])
    accelerator.wait_for_everyone()

    metrics: dict[str, Any] = {}
    for fold in range(1, n_folds + 1) if only_fold is None else [only_fold]:
        sets = fold_sets(inside, folds, fold) | ({INDEPENDENT: independent} if independent else {})
        check_training_set(sets["train"], names)
        told = progress(fold) if progress else None
        metrics = train_sets(config, sets, names, cache, output / f"fold-{fold}", accelerator, told)
        accelerator.free_memory()
    if only_fold is None and accelerator.is_main_process:
        metrics = collect(output)
    accelerator.wait_for_everyone()
    return metrics


def fold_sets(records: Sequence[Record], folds: Sequence[int], fold: int) -> dict[str, list[Record]]:
    """v1 Fig. 3: fold k tests, the next one validates, the others train.

    >>> records = [Record(Path(name), name) for name in "abcd"]
    >>> {name: [r.name for r in members] for name, members in fold_sets(records, [1, 2, 3, 4], 4).items()}
    {'train': ['b', 'c'], 'val': ['a'], 'test': ['d']}
    """
    validates = fold % max(folds) + 1
    sets: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    for record, number in zip(records, folds, strict=True):
        sets["test" if number == fold else "val" if number == validates else "train"].append(record)
    return sets


def read_folds(path: Path, records: Sequence[Record]) -> list[int]:
    """Each record's fold, from the split.csv of another cross-validation of the same images.

    Raises:
        UserError: It is of another data set, or not of a cross-validation.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            folds = {row["path"]: row["fold"] for row in csv.DictReader(file)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a split.csv ({error}); expected the columns path and fold") from error
    missing = [r.name for r in records if not folds.get(r.name, "").isdigit()]
    if missing:
        raise UserError(f"{path} gives no fold for {len(missing)} of {len(records)} images, such as {missing[0]}")
    numbers = [int(folds[r.name]) for r in records]
    if set(numbers) != set(range(1, max(numbers) + 1)) or max(numbers) < 3:
        raise UserError(f"{path} has the folds {sorted(set(numbers))}; expected 1 to n, n at least 3")
    patients: dict[str, int] = {}
    for r, number in zip(records, numbers, strict=True):
        if r.patient_id and patients.setdefault(r.patient_id, number) != number:
            raise UserError(f"{path}: patient {r.patient_id!r} is in folds {patients[r.patient_id]} and {number}")
    return numbers


def _refuse_shared_patients(inside: Sequence[Record], independent: Sequence[Record]) -> None:
    patients = {r.patient_id for r in inside} - {""}
    for r in independent:
        if r.patient_id in patients:
            raise UserError(f"patient {r.patient_id!r} is in the test source and in another ({r.where or r.name})")
