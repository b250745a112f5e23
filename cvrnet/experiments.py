"""Many trainings in order: the papers' cross-validation (v1 Fig. 3), resumable fold by fold (extra ``train``)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import Record, make_folds
from cvrnet.errors import UserError
from cvrnet.evaluation import FIGURES, METRICS, PREDICTIONS
from cvrnet.files import write_csv, write_json
from cvrnet.metrics import classification_scores, mean_std, precision_recall_curves, roc_curves
from cvrnet.report import plot_confusion_matrix, plot_precision_recall, plot_roc, save_figure
from cvrnet.training import Progress, TrainConfig, make_accelerator
from cvrnet.training.run import RUN, SPLIT, check_training_set, describe_run, load_data, open_run, split_row, train_sets

SUMMARY = "summary.json"
INDEPENDENT = "independent"


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
    decoding: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Train and test every fold: fold k tests, fold k+1 validates, the others train (v1 Fig. 3).

    Folds are stratified by label and source, never share a patient, and are saved before anything is trained.

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The run folder: run.json, split.csv, fold-1/ and so on, summary.json, figures/.
        config: The protocol.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        test_source: A source that is in no fold, and that every fold's model is tested on as well (v2's independent
            set).
        split_from: A split.csv whose folds are taken instead of new ones.
        only_fold: Train this fold alone; :func:`collect` joins the folds later.
        resume: Go on with the run that is there.
        overwrite: Replace the run that is there.
        cache_folder: Where decoded images are kept; each is decoded once for all folds.
        progress: Given a fold's number, whom to tell about its training.
        decoding: Called after each decoded image with the number done and the number to do.

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
    records, names, cache = load_data(data, config, accelerator, classes, cache_folder, decoding)
    sources = sorted({r.source for r in records} - {""})
    if test_source and test_source not in sources:
        raise UserError(f"unknown test source {test_source!r}; the data set has {', '.join(sources) or 'no sources'}")
    independent = [r for r in records if test_source and r.source == test_source]
    inside = [r for r in records if not test_source or r.source != test_source]
    _refuse_shared_patients(inside, independent)
    check_training_set(inside, names)
    folds = read_folds(split_from, inside) if split_from else make_folds(inside, n_folds, config.seed)
    n_folds = max(folds)

    if accelerator.is_main_process:
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


def collect(output: Path) -> dict[str, Any]:
    """Join the folds of a run: summary.json and figures.

    Scores of each fold, their mean and standard deviation, and the scores of all test predictions pooled. With an
    independent source, the folds' scores on it stand beside, and the drop in accuracy.

    Raises:
        UserError: It is no cross-validation, or a fold is missing.
    """
    if not (output / RUN).is_file():
        raise UserError(f"{output} is not a run: it has no {RUN}")
    run = json.loads((output / RUN).read_text(encoding="utf-8"))
    if run.get("kind") != "crossval":
        raise UserError(f"{output} is not a cross-validation")
    folders = [output / f"fold-{fold}" for fold in range(1, run["folds"] + 1)]
    missing = [folder.name for folder in folders if not (folder / METRICS).is_file()]
    if missing:
        raise UserError(f"{output} lacks {', '.join(missing)}; train with --only-fold, or resume the run")
    classes = run["classes"]
    metrics = [json.loads((folder / METRICS).read_text(encoding="utf-8")) for folder in folders]
    y, p = _pooled(folders, classes)
    summary: dict[str, Any] = {
        "classes": classes,
        "folds": [m["test"] for m in metrics],
        "mean_std": mean_std([m["test"] for m in metrics]),
        "pooled": classification_scores(y, p, classes),
        "test_source": run["test_source"] or None,
    }
    if run["test_source"]:
        outside = [m[INDEPENDENT] for m in metrics]
        drops = [m["test"]["accuracy"] - m[INDEPENDENT]["accuracy"] for m in metrics]
        summary[INDEPENDENT] = {"folds": outside, "mean_std": mean_std(outside), "drop_in_accuracy": mean_std(drops)}
    figures = {
        "confusion_matrix": plot_confusion_matrix(summary["pooled"]["confusion_matrix"], classes),
        "roc": plot_roc(roc_curves(y, p, classes)),
        "precision_recall": plot_precision_recall(precision_recall_curves(y, p, classes)),
    }
    for name, figure in figures.items():
        save_figure(figure, output / FIGURES / f"{name}.png")
    write_json(output / SUMMARY, summary)
    return summary


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The papers' table (v1 Table 3): a row a fold, then mean ± standard deviation, weighted as the papers do."""

    def row(name: str, scores: Mapping[str, Any], cell: Callable[[Any], Any]) -> dict[str, Any]:
        weighted = scores["weighted"]
        return {
            "fold": name,
            **{key: cell(weighted[key]) for key in ("recall", "precision", "f1")},
            "accuracy": cell(scores["accuracy"]),
            "f1_macro": cell(scores["macro"]["f1"]),
            "auc_macro": cell(scores["macro"]["roc_auc"]),
        }

    def spread(value: Mapping[str, Any]) -> str:
        return "-" if value["mean"] is None else f"{value['mean']:.3f} ± {value['std']:.3f}"

    rows = [row(str(k), scores, lambda value: value) for k, scores in enumerate(summary["folds"], start=1)]
    rows.append(row("mean", summary["mean_std"], spread))
    if INDEPENDENT in summary:
        rows.append(row(f"on {summary['test_source']}", summary[INDEPENDENT]["mean_std"], spread))
    return rows


def _pooled(folders: Sequence[Path], classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    labels, rows = [], []
    for folder in folders:
        with (folder / PREDICTIONS).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] == "test":
                    labels.append(classes.index(row["label"]))
                    rows.append([float(row[f"prob_{name}"]) for name in classes])
    return np.array(labels), np.array(rows)


def _refuse_shared_patients(inside: Sequence[Record], independent: Sequence[Record]) -> None:
    patients = {r.patient_id for r in inside} - {""}
    for r in independent:
        if r.patient_id in patients:
            raise UserError(f"patient {r.patient_id!r} is in the test source and in another ({r.where or r.name})")
