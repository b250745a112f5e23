"""Draw the figures of one set of predictions; each PNG has a CSV file of its numbers beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cvrnet import figures, metrics
from cvrnet.files import write_sheet
from cvrnet.runs.layout import FIGURES
from cvrnet.runs.predictions import AnyTable, PredictionTable

_ROC = ("fpr", "tpr", "threshold")
_PRECISION_RECALL = ("recall", "precision", "threshold")
_CALIBRATION = ("lower", "upper", "count", "predicted", "observed")
_DECISION = ("threshold", "net_benefit", "treat_all")
_CURVES = {
    "roc": (metrics.roc_curves, figures.plot_roc, _ROC),
    "precision_recall": (metrics.precision_recall_curves, figures.plot_precision_recall, _PRECISION_RECALL),
    "calibration": (metrics.calibration_curve, figures.plot_calibration, _CALIBRATION),
    "decision_curves": (metrics.decision_curves, figures.plot_decision_curves, _DECISION),
}
"""Name of a figure -> the function that calculates the curves, the function that draws them, and the CSV columns."""


def draw_predictions(folder: Path, predictions: AnyTable, suffix: str = "") -> None:
    """Draw the confusion matrix and ROC, precision-recall, calibration and decision curves, as PNG and CSV in figures/.

    The files' names end in ``suffix``, such as ``_independent``. If an image may have several findings, no figure is
    drawn.
    """
    p = predictions
    if not isinstance(p, PredictionTable):
        return
    matrix = metrics.confusion_matrix(p.labels, p.probabilities)
    figure = figures.plot_confusion_matrix(matrix, p.classes)
    _save(folder, f"confusion_matrix{suffix}", figure, _matrix_rows(matrix, p.classes))
    for name, (calculate, plot, columns) in _CURVES.items():
        curves = calculate(p.labels, p.probabilities, p.classes)
        _save(folder, f"{name}{suffix}", plot(curves), _curve_rows(curves, columns))


def draw_heads(folder: Path, head_rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the accuracy of each head and of the averaged prediction, from the rows of `cvrnet.scoring.head_rows`."""
    _save(folder, "heads", figures.plot_heads(head_rows), head_rows)


def draw_learning_curves(folder: Path, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the learning curves of all folds, or of one training.

    ``histories`` maps the name of each fold (``""`` for one training) to the rows of its history.csv.
    """
    first = next(iter(histories.values()))
    score = "val_roc_auc" if first and "val_roc_auc" in first[0] else "val_accuracy"  # findings have no accuracy
    if len(histories) == 1:
        figure = figures.plot_learning_curves(first, score)
    else:
        figure = figures.plot_fold_learning_curves(histories, score)
    numbers = ({"fold": name, **row} for name, rows in histories.items() for row in rows)
    _save(folder, "learning_curves", figure, numbers)


def draw_risk_coverage(folder: Path, curves: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the risk-coverage curve of each set of images.

    ``curves`` maps the name of each set to the result of `cvrnet.metrics.abstention.risk_coverage`.
    """
    rows = (
        {"set": name, "coverage": coverage, "risk": risk}
        for name, curve in curves.items()
        for coverage, risk in zip(curve["coverage"].tolist(), curve["risk"].tolist(), strict=True)
    )
    _save(folder, "risk_coverage", figures.plot_risk_coverage(curves), rows)


def _save(folder: Path, name: str, figure: Figure, rows: Iterable[Mapping[str, Any]]) -> None:
    figures.save_figure(figure, folder / FIGURES / f"{name}.png")
    write_sheet(folder / FIGURES / f"{name}.csv", rows)


def _matrix_rows(matrix: np.ndarray, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    support = matrix.sum(1)
    for guess, predicted in enumerate(classes):
        for truth, actual in enumerate(classes):
            share = 100 * matrix[truth, guess] / support[truth] if support[truth] else None
            yield {"predicted": predicted, "actual": actual, "count": matrix[truth, guess], "percent": share}


def _curve_rows(curves: Mapping[str, Any], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each point of every curve.

    The curves of the classes come first, then the curve of the macro average or of the predicted class.
    """
    overall = next(key for key in curves if key != "per_class")
    parts = [("class", name, curve) for name, curve in curves["per_class"].items()]
    for kind, name, curve in [*parts, (overall, "", curves[overall])]:
        if curve is None:
            continue
        given = [key for key in columns if key in curve]  # a macro curve has no thresholds
        for values in zip(*(curve[key].tolist() for key in given), strict=True):
            yield {"curve": kind, "class": name, **dict.fromkeys(columns), **dict(zip(given, values, strict=True))}
