"""The figures of one set of predictions, each with the numbers that it shows as CSV beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.figures import (
    plot_calibration,
    plot_confusion_matrix,
    plot_fold_learning_curves,
    plot_heads,
    plot_learning_curves,
    plot_precision_recall,
    plot_roc,
    save_figure,
)
from cvrnet.files import write_csv
from cvrnet.metrics import calibration_curve, confusion_matrix, precision_recall_curves, roc_curves
from cvrnet.runs.layout import FIGURES
from cvrnet.runs.predictions import PredictionTable


def draw_predictions(folder: Path, predictions: PredictionTable, suffix: str = "") -> None:
    """Confusion matrix, ROC, precision-recall and calibration curves: PNG and CSV in ``folder/figures``.

    Args:
        folder: The run.
        predictions: What is shown.
        suffix: Of the files' names, such as ``_independent``.
    """
    p = predictions
    matrix = confusion_matrix(p.labels, p.probabilities)
    roc = roc_curves(p.labels, p.probabilities, p.classes)
    recall = precision_recall_curves(p.labels, p.probabilities, p.classes)
    calibration = calibration_curve(p.labels, p.probabilities, p.classes)
    figures = {
        "confusion_matrix": (plot_confusion_matrix(matrix, p.classes), list(_matrix_rows(matrix, p.classes))),
        "roc": (plot_roc(roc), list(_curve_rows(roc, ("fpr", "tpr", "threshold")))),
        "precision_recall": (
            plot_precision_recall(recall),
            list(_curve_rows(recall, ("recall", "precision", "threshold"))),
        ),
        "calibration": (
            plot_calibration(calibration),
            list(_curve_rows(calibration, ("lower", "upper", "count", "predicted", "observed"))),
        ),
    }
    for name, (figure, rows) in figures.items():
        save_figure(figure, folder / FIGURES / f"{name}{suffix}.png")
        write_csv(folder / FIGURES / f"{name}{suffix}.csv", rows)


def draw_heads(folder: Path, head_rows: Sequence[Mapping[str, Any]]) -> None:
    """Each head's accuracy beside the average's, from `cvrnet.scoring.head_accuracy.head_rows`."""
    save_figure(plot_heads(head_rows), folder / FIGURES / "heads.png")
    write_csv(folder / FIGURES / "heads.csv", head_rows)


def draw_learning_curves(folder: Path, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Learning curves of each fold, or of a single training: a name to the rows of its history.csv."""
    single = next(iter(histories.values())) if len(histories) == 1 else None
    figure = plot_fold_learning_curves(histories) if single is None else plot_learning_curves(single)
    save_figure(figure, folder / FIGURES / "learning_curves.png")
    rows = [{"fold": name, **row} for name, history in histories.items() for row in history]
    write_csv(folder / FIGURES / "learning_curves.csv", rows)


def _matrix_rows(matrix: np.ndarray, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    support = matrix.sum(1)
    for guess, predicted in enumerate(classes):
        for truth, actual in enumerate(classes):
            share = 100 * matrix[truth, guess] / support[truth] if support[truth] else None
            yield {"predicted": predicted, "actual": actual, "count": matrix[truth, guess], "percent": share}


def _curve_rows(curves: Mapping[str, Any], keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row a point, of each class's curve and of the one over all (``macro``, or the predicted class's)."""
    overall = next(key for key in curves if key != "per_class")
    parts = [("class", name, curve) for name, curve in curves["per_class"].items()]
    for kind, name, curve in [*parts, (overall, "", curves[overall])]:
        if curve is None:
            continue
        given = [key for key in keys if key in curve]
        for values in zip(*(curve[key].tolist() for key in given), strict=True):
            yield {"curve": kind, "class": name, **dict.fromkeys(keys), **dict(zip(given, values, strict=True))}
