"""Every file name of a run on disk. No other module contains these names."""

from __future__ import annotations

import re
from pathlib import Path

from cvrnet.data.splits import INDEPENDENT as INDEPENDENT  # the set's name is part of the layout

# Of every run
RUN = "run.json"
SPLIT = "split.csv"
AUDIT, AUDIT_PAGE, AUDIT_TABLES = "audit.json", "audit.html", "audit"
REPORT, CHECKLIST = "report.html", "checklist.md"
FIGURES, TABLES = "figures", "tables"
SOURCE_PROBE = f"{TABLES}/source_probe.csv"
UNLIKE = f"{TABLES}/unlike_training.csv"

# Of a trained model, in the run's folder or in each fold's folder; the first two names are timm's
CONFIG, WEIGHTS = "config.json", "model.safetensors"
NOVELTY = "novelty.safetensors"  # how unusual an image is; beside the weights
SEGMENTER = "lungs.safetensors"  # what finds the lungs, for a model that sees only them; beside the weights
METRICS, PREDICTIONS, HISTORY = "metrics.json", "predictions.csv", "history.csv"
ATTENTION = "attention.csv"  # of bags: how much each picture counts
BASELINES = "baselines.csv"  # of a model that foretells an event: what one film, or no network, says
STATE = "training-state.pt"  # from which an interrupted training is resumed; removed when the training has finished
LAST_STATE = "last-epoch.pt"  # left by a training that ended at its number of epochs, so that more epochs can follow

# Of a run that goes to the Hub, or comes from it
CARD, ORIGIN = "README.md", "hub.json"
HASH_KEY = "patient-hash.key"  # never pushed: with it, hashed ids of a pushed run can be compared with real ones

# Of a cross-validation or a benchmark
SUMMARY = "summary.json"
BENCHMARK, SPEED = "benchmark", "speed.json"

COMPARE = "compare"  # kind of a comparison, whose folder holds an evaluation of each model

RUN_ENTRIES = (
    *(RUN, SPLIT, AUDIT, AUDIT_PAGE, AUDIT_TABLES, REPORT, CHECKLIST, FIGURES, TABLES),
    *(CONFIG, WEIGHTS, NOVELTY, SEGMENTER, METRICS, PREDICTIONS, ATTENTION, BASELINES, HISTORY, STATE, LAST_STATE),
    *(CARD, ORIGIN, HASH_KEY, SUMMARY, f"{BENCHMARK}.*", SPEED),
    *(".*.tmp", ".saving-*", ".DS_Store"),  # what a killed process, or the system, can leave behind
)
"""All files and folders of a run, as patterns, except the folds and the runs of a sweep."""


MAX_FOLDS = 10_000  #: the most folds that a run.json may state


def fold_name(fold: int | str) -> str:
    """The folder, and on the Hub the branch, of a fold.

    >>> fold_name(3)
    'fold-3'
    """
    return f"fold-{fold}"


def fold_number(name: str) -> int | None:
    """The number of a fold by the name of its folder or branch; None for any other name.

    >>> fold_number("fold-3"), fold_number("fold-3.old")
    (3, None)
    """
    match = re.fullmatch(r"fold-([1-9][0-9]{0,5})", name)
    return int(match[1]) if match else None


def fold_folders(run: Path) -> dict[int, Path]:
    """The folds of a run that hold a model: number to folder, in the order of the numbers."""
    folders = [path.parent for path in run.glob(f"{fold_name('*')}/{CONFIG}")]
    return dict(sorted((number, folder) for folder in folders if (number := fold_number(folder.name))))
