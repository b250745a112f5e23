"""Define every file name of a run on disk. No other module contains these names."""

from __future__ import annotations

import re
from pathlib import Path

from cvrnet.data.splits import INDEPENDENT as INDEPENDENT  # the set's name is part of the layout

# Files of every run
RUN = "run.json"
SPLIT = "split.csv"
AUDIT, AUDIT_PAGE, AUDIT_TABLES = "audit.json", "audit.html", "audit"
REPORT, CHECKLIST = "report.html", "checklist.md"
FIGURES, TABLES = "figures", "tables"
SOURCE_PROBE = f"{TABLES}/source_probe.csv"
UNLIKE = f"{TABLES}/unlike_training.csv"

# Files of a trained model, in the run's folder or in each fold's folder; the first two names are timm's
CONFIG, WEIGHTS = "config.json", "model.safetensors"
NOVELTY = "novelty.safetensors"  # the novelty head, which measures how unusual an image is; beside the weights
SEGMENTER = "lungs.safetensors"  # the segmenter of a model that sees only the lungs; beside the weights
METRICS, PREDICTIONS, HISTORY = "metrics.json", "predictions.csv", "history.csv"
ATTENTION = "attention.csv"  # for bags (several pictures with one label): how much each picture counts in its bag
BASELINES = "baselines.csv"  # for a model that predicts an event: scores without the network, or from one image alone
STATE = "training-state.pt"  # an interrupted training is resumed from this file; at the end, removed or renamed
LAST_STATE = "last-epoch.pt"  # the state after the last epoch, so that a training can continue with more epochs

# Files of a run that is pushed to the Hub or pulled from it
CARD, ORIGIN = "README.md", "hub.json"
HASH_KEY = "patient-hash.key"  # never pushed: with it, hashed ids of a pushed run can be compared with real ones

# Files of a cross-validation or a benchmark
SUMMARY = "summary.json"
BENCHMARK, SPEED = "benchmark", "speed.json"

COMPARE = "compare"  # kind of a job that compares models; its folder holds an evaluation of each model

RUN_ENTRIES = (
    *(RUN, SPLIT, AUDIT, AUDIT_PAGE, AUDIT_TABLES, REPORT, CHECKLIST, FIGURES, TABLES),
    *(CONFIG, WEIGHTS, NOVELTY, SEGMENTER, METRICS, PREDICTIONS, ATTENTION, BASELINES, HISTORY, STATE, LAST_STATE),
    *(CARD, ORIGIN, HASH_KEY, SUMMARY, f"{BENCHMARK}.*", SPEED),
    *(".*.tmp", ".saving-*", ".DS_Store"),  # a killed process, or macOS, can leave these behind
)
"""Patterns for all files and folders of a run, except its folds and the runs of a sweep."""


MAX_FOLDS = 10_000  #: the most folds that a run.json may state


def fold_name(fold: int | str) -> str:
    """Return the name of a fold's folder, which is also its branch on the Hub.

    >>> fold_name(3)
    'fold-3'
    """
    return f"fold-{fold}"


def fold_number(name: str) -> int | None:
    """Return the number of a fold from the name of its folder or branch; None for any other name.

    >>> fold_number("fold-3"), fold_number("fold-3.old")
    (3, None)
    """
    match = re.fullmatch(r"fold-([1-9][0-9]{0,5})", name)
    return int(match[1]) if match else None


def fold_folders(run: Path) -> dict[int, Path]:
    """Return the folds of a run that have a model: fold number -> folder, in ascending order."""
    folders = [path.parent for path in run.glob(f"{fold_name('*')}/{CONFIG}")]
    return dict(sorted((number, folder) for folder in folders if (number := fold_number(folder.name))))
