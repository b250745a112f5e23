"""Every file name of a run on disk. No other module spells one out."""

from __future__ import annotations

from cvrnet.data.splits import INDEPENDENT as INDEPENDENT  # the set's name is part of the layout

# Of every run
RUN = "run.json"
SPLIT = "split.csv"
AUDIT = "audit.json"
REPORT = "report.html"
FIGURES, TABLES = "figures", "tables"

# Of a trained model (timm's own names), beside the run or in each fold
CONFIG, WEIGHTS = "config.json", "model.safetensors"
METRICS, PREDICTIONS, HISTORY = "metrics.json", "predictions.csv", "history.csv"
STATE = "training-state.pt"
"""What an interrupted training goes on from; removed when it has finished."""

# Of a run that goes to the Hub, or comes from it
CARD, ORIGIN = "README.md", "hub.json"
HASH_KEY = "patient-hash.key"
"""Never pushed: who has it can compare the hashed ids of a pushed run with real ones."""

# Of a cross-validation or a benchmark
SUMMARY = "summary.json"
BENCHMARK, SPEED = "benchmark", "speed.json"


def fold_name(fold: int | str) -> str:
    """The folder, and on the Hub the branch, of a fold.

    >>> fold_name(3)
    'fold-3'
    """
    return f"fold-{fold}"
