"""The papers' cross-validation (v1 Fig. 3), resumable fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import INDEPENDENT, make_folds
from cvrnet.data.splits import fold_sets, hold_back, refuse_missing_classes
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.runs.folder import claim_folder
from cvrnet.runs.layout import SPLIT, fold_name
from cvrnet.runs.split_table import read_folds, split_row
from cvrnet.training import TrainConfig, create_for_training
from cvrnet.training.processes import Processes
from cvrnet.workflows.collect import collect
from cvrnet.workflows.job import Callbacks, DataSet, audit_run, describe_run, load_data
from cvrnet.workflows.train import train_sets


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
    audit: bool = True,
    maps: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Train and test every fold: fold k tests, fold k+1 validates, the others train (v1 Fig. 3).

    Folds are stratified by label and source, never share a patient, and are saved before anything is trained. Images
    of ``test_source``, or without one those whose ``split`` is ``test``, are in no fold; every fold's model is scored
    on them as well (v2's independent set; see `cvrnet.data.splits`).

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The run folder: run.json, split.csv, fold-1/ and so on, summary.json, figures/, tables/, report.html,
            audit.html.
        config: The protocol.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        test_source: A source that is in no fold.
        split_from: A split.csv whose folds are taken instead of new ones.
        only_fold: Train this fold alone; `cvrnet.workflows.collect` joins the folds later.
        audit: Audit the data set first (extra ``audit``).
        maps: Show Grad-CAM of some images in the report.
        resume: Continue the run in the folder.
        overwrite: Replace the run in the folder.
        cache_folder: Where decoded images are kept; each is decoded once for all folds.
        callbacks: What to call for progress and messages.

    Returns:
        The content of summary.json, or with ``only_fold`` of that fold's metrics.json.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: The run folder exists, or the data set does not allow these folds.
    """
    config, output, callbacks = config or TrainConfig(), Path(output), callbacks or Callbacks()
    check_folds(n_folds, only_fold)
    processes = Processes(config.device, config.amp)
    found = load_data(data, config, processes, classes, cache_folder, callbacks)
    return cross_validate_data(
        output,
        found,
        config,
        n_folds=n_folds,
        test_source=test_source,
        split_from=split_from,
        only_fold=only_fold,
        audit=lambda folder: audit_run(folder, data, found.records, callbacks) if audit else None,
        maps=maps,
        resume=resume or only_fold is not None,
        overwrite=overwrite,
        callbacks=callbacks,
    )


def check_folds(n_folds: int, only_fold: int | None = None) -> None:
    """Refuse a number of folds, or a fold, that is not possible.

    Raises:
        UserError: Says what is expected.
    """
    if n_folds < 3:
        raise UserError(f"{n_folds} folds; expected at least 3: one tests, one validates, the others train")
    if only_fold is not None and not 1 <= only_fold <= n_folds:
        raise UserError(f"there is no fold {only_fold}; expected 1 to {n_folds}")


def cross_validate_data(
    output: Path,
    data: DataSet,
    config: TrainConfig,
    *,
    n_folds: int,
    audit: Callable[[Path], None],
    maps: bool,
    resume: bool,
    callbacks: Callbacks,
    test_source: str = "",
    split_from: Path | None = None,
    only_fold: int | None = None,
    overwrite: bool = False,
    name: str = "",
) -> dict[str, Any]:
    """As `cross_validate`, of data that are read and decoded already: once for a whole sweep.

    Args:
        output: The run folder.
        data: The data set.
        config: The protocol.
        n_folds: As `cross_validate`, and so the arguments that are not named here.
        audit: Called on the main process with the run folder when it has been claimed.
        maps: As `cross_validate`.
        resume: As `cross_validate`.
        callbacks: As `cross_validate`.
        test_source: As `cross_validate`.
        split_from: As `cross_validate`.
        only_fold: As `cross_validate`.
        overwrite: As `cross_validate`.
        name: For messages, the model or source of a sweep.
    """
    processes = Processes(config.device, config.amp)
    inside, independent = hold_back(data.records, test_source)
    refuse_missing_classes(inside, data.classes)
    if split_from is None and resume and (output / SPLIT).is_file():
        split_from = output / SPLIT  # the folds of the run that is continued, whatever would be made today
    folds = read_folds(split_from, inside) if split_from else make_folds(inside, n_folds, config.seed)
    if processes.is_main:
        if not output.exists():
            create_for_training(config, len(data.classes))  # a model that cannot be made leaves no folder behind
        description = describe_run("crossval", data, config, test_source) | {"folds": max(folds)}
        claim_folder(output, description, resume=resume, overwrite=overwrite, defaults=TrainConfig().to_dict())
        rows = [split_row(r, fold) for r, fold in zip(inside, folds, strict=True)]
        write_csv(output / SPLIT, [*rows, *(split_row(r, INDEPENDENT) for r in independent)])
        audit(output)
    processes.wait()

    metrics: dict[str, Any] = {}
    for fold in range(1, max(folds) + 1) if only_fold is None else [only_fold]:
        sets = fold_sets(inside, folds, fold) | ({INDEPENDENT: independent} if independent else {})
        refuse_missing_classes(sets["train"], data.classes)
        progress = callbacks.training(name, fold)
        metrics = train_sets(config, sets, data.classes, data.cache, output / fold_name(fold), progress)
    if only_fold is None and processes.is_main:
        metrics = collect(output, maps=maps)
    processes.wait()
    return metrics
