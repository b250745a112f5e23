"""Scoring a trained model on labelled images: metrics, predictions and figures in one folder (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import Record
from cvrnet.errors import UserError
from cvrnet.files import write_csv, write_json
from cvrnet.inference import Predictor
from cvrnet.metrics import (
    calibration_curve,
    classification_scores,
    precision_recall_curves,
    roc_curves,
)
from cvrnet.report import (
    plot_calibration,
    plot_confusion_matrix,
    plot_precision_recall,
    plot_roc,
    save_figure,
)

METRICS, PREDICTIONS, FIGURES = "metrics.json", "predictions.csv", "figures"


def check_classes(records: Sequence[Record], classes: Sequence[str]) -> None:
    """Refuse labels that the model does not know; classes without an image are fine.

    Raises:
        UserError: Names the unknown labels, and the model's.
    """
    unknown = sorted({r.label for r in records} - set(classes))
    if unknown:
        raise UserError(f"the model does not know the class {', '.join(unknown)}; expected {', '.join(classes)}")


def predict_records(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[Record], np.ndarray, list[str]]:
    """Probabilities of every readable image.

    Args:
        predictor: The model.
        records: The images.
        batch_size: Images the network sees at once.
        progress: Called after each image with the number done and the number of images.

    Returns:
        The records that could be read, their probabilities (N, C), and a line for each that could not.
    """
    good, rows, problems = [], [], []
    stream = predictor.stream((r.path for r in records), batch_size=batch_size)
    for done, (record, prediction) in enumerate(zip(records, stream, strict=True), start=1):
        if prediction.error:
            problems.append(prediction.error)
        else:
            good.append(record)
            rows.append(prediction.probabilities)
        if progress is not None:
            progress(done, len(records))
    return good, np.array(rows).reshape(len(rows), len(predictor.classes)), problems


def prediction_rows(
    records: Sequence[Record], probabilities: np.ndarray, classes: Sequence[str], **columns: str
) -> Iterator[dict[str, Any]]:
    """Rows of predictions.csv; ``columns`` are further, constant ones."""
    for record, p in zip(records, probabilities, strict=True):
        yield {
            "path": record.name,
            "label": record.label,
            "prediction": classes[int(p.argmax())],
            **{f"prob_{name}": repr(float(value)) for name, value in zip(classes, p, strict=True)},
            "source": record.source,
            "patient_id": record.patient_id,
            **columns,
        }


def write_evaluation(
    folder: Path, sets: Mapping[str, tuple[Sequence[Record], np.ndarray]], classes: Sequence[str]
) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and figures for one or more sets of images.

    Args:
        folder: Where to.
        sets: Name of the set (``val``, ``test``) to its records and probabilities (N, C); the figures show the last.
        classes: Class names in the order of the probabilities.

    Returns:
        What metrics.json holds: the scores of each set.
    """
    truth = {name: np.array([classes.index(r.label) for r in records]) for name, (records, _) in sets.items()}
    metrics = {name: classification_scores(truth[name], p, list(classes)) for name, (_, p) in sets.items()}
    shown = list(sets)[-1]
    y, p = truth[shown], sets[shown][1]
    curves = {
        "confusion_matrix": plot_confusion_matrix(metrics[shown]["confusion_matrix"], classes),
        "roc": plot_roc(roc_curves(y, p, list(classes))),
        "precision_recall": plot_precision_recall(precision_recall_curves(y, p, list(classes))),
        "calibration": plot_calibration(calibration_curve(y, p, list(classes))),
    }
    for name, figure in curves.items():
        save_figure(figure, folder / FIGURES / f"{name}.png")
    rows = (row for name, (records, p) in sets.items() for row in prediction_rows(records, p, classes, split=name))
    write_csv(folder / PREDICTIONS, rows)
    write_json(folder / METRICS, metrics)
    return metrics
