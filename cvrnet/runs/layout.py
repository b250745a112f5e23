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

# Of a cross-validation or a benchmark
SUMMARY = "summary.json"
BENCHMARK, SPEED = "benchmark", "speed.json"


def fold_name(fold: int | str) -> str:
    """The folder, and on the Hub the branch, of a fold.

    >>> fold_name(3)
    'fold-3'
    """
    return f"fold-{fold}"
