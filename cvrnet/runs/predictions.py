"""Predictions on labelled images, as predictions.csv holds them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.runs.layout import PREDICTIONS


@dataclass(frozen=True)
class Predictions:
    """What one or more models answered to labelled images.

    Attributes:
        classes: Class names in the order of the probabilities.
        names: Each image's path, as in the data set.
        labels: Each image's class index, (N,).
        probabilities: (N, C).
        sources: Each image's source, "" where it is not known.
        patients: Each image's patient, "" where it is not known.
        folds: The fold whose model answered, "" where there is one model only.
    """

    classes: list[str]
    names: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    sources: list[str]
    patients: list[str]
    folds: list[str]

    def of_source(self, source: str) -> Predictions:
        """The images of one source."""
        rows = [row for row, name in enumerate(self.sources) if name == source]
        names, sources, patients, folds = (
            [values[row] for row in rows] for values in (self.names, self.sources, self.patients, self.folds)
        )
        return Predictions(self.classes, names, self.labels[rows], self.probabilities[rows], sources, patients, folds)

    @property
    def groups(self) -> list[str]:
        """Each image's patient; an image whose patient is not known is a patient of its own, by its path."""
        return [patient or f"\0{name}" for patient, name in zip(self.patients, self.names, strict=True)]


def read_predictions(folders: Sequence[Path], classes: Sequence[str], split: str) -> Predictions:
    """The predictions of one set (``val``, ``test``, ``independent``), over one or more folders joined.

    Raises:
        UserError: A file is missing or is no predictions.csv of these classes, or holds no such set.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    for number, folder in enumerate(folders, start=1):
        fold = str(number) if len(folders) > 1 else ""
        path = folder / PREDICTIONS
        try:
            with path.open(encoding="utf-8", newline="") as file:
                found = [(fold, row) for row in csv.DictReader(file) if row["split"] == split]
            for _, row in found:
                classes.index(row["label"])
                [float(row[f"prob_{name}"]) for name in classes]
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be used ({error}); expected predictions of {', '.join(classes)}") from error
        rows += found
    if not rows:
        raise UserError(f"{folders[0] / PREDICTIONS} has no image of the set {split!r}")
    return Predictions(
        classes=list(classes),
        names=[row["path"] for _, row in rows],
        labels=np.array([classes.index(row["label"]) for _, row in rows]),
        probabilities=np.array([[float(row[f"prob_{name}"]) for name in classes] for _, row in rows]),
        sources=[row.get("source") or "" for _, row in rows],
        patients=[row.get("patient_id") or "" for _, row in rows],
        folds=[fold for fold, _ in rows],
    )
