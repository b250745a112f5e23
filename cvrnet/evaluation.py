"""Scoring a trained model on labelled images: metrics, predictions and figures in one folder (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Answers:
    """What a model answered to the images of a set that could be read.

    Attributes:
        records: The images.
        probabilities: Of each class, (N, C).
        heads: Each head's own probabilities, (heads, N, C); None where the model has no heads of its own.
        problems: A line for each image that could not be read.
    """

    records: list[Record]
    probabilities: np.ndarray
    heads: np.ndarray | None
    problems: list[str]


def predict_records(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> Answers:
    """Probabilities of every readable image, of each head too where the model has several.

    Args:
        predictor: The model.
        records: The images.
        batch_size: Images the network sees at once.
        progress: Called after each image with the number done and the number of images.
    """
    good, rows, by_head, problems = [], [], [], []
    stream = predictor.stream((r.path for r in records), batch_size=batch_size, heads=predictor.has_heads)
    for done, (record, prediction) in enumerate(zip(records, stream, strict=True), start=1):
        if prediction.error:
            problems.append(prediction.error)
        else:
            good.append(record)
            rows.append(prediction.probabilities)
            if prediction.heads is not None:
                by_head.append(prediction.heads)
        if progress is not None:
            progress(done, len(records))
    table = np.array(rows).reshape(len(rows), len(predictor.classes))
    return Answers(good, table, np.stack(by_head, 1) if by_head else None, problems)


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


def write_evaluation(folder: Path, sets: Mapping[str, Answers], classes: Sequence[str]) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and figures for one or more sets of images.

    Args:
        folder: Where to.
        sets: Name of the set (``val``, ``test``) to its answers; the figures show the last.
        classes: Class names in the order of the probabilities.

    Returns:
        What metrics.json holds: the scores of each set.
    """
    truth = {name: np.array([classes.index(r.label) for r in a.records]) for name, a in sets.items()}
    metrics = {name: classification_scores(truth[name], a.probabilities, list(classes)) for name, a in sets.items()}
    for name, answers in sets.items():
        if answers.heads is not None:
            hits = (answers.heads.argmax(-1) == truth[name]).mean(1)
            metrics[name]["head_accuracy"] = {f"P{i}": float(hit) for i, hit in enumerate(hits, start=1)}
    shown = list(sets)[-1]
    y, p = truth[shown], sets[shown].probabilities
    curves = {
        "confusion_matrix": plot_confusion_matrix(metrics[shown]["confusion_matrix"], classes),
        "roc": plot_roc(roc_curves(y, p, list(classes))),
        "precision_recall": plot_precision_recall(precision_recall_curves(y, p, list(classes))),
        "calibration": plot_calibration(calibration_curve(y, p, list(classes))),
    }
    for name, figure in curves.items():
        save_figure(figure, folder / FIGURES / f"{name}.png")
    rows = (row for name, a in sets.items() for row in prediction_rows(a.records, a.probabilities, classes, split=name))
    write_csv(folder / PREDICTIONS, rows)
    write_json(folder / METRICS, metrics)
    return metrics
