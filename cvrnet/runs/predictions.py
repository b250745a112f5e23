"""Predictions on labelled images, and predictions.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.record import Record
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_csv
from cvrnet.runs.layout import PREDICTIONS
from cvrnet.runs.read import read_rows

UNLIKE = "unlike_training"  #: column of predictions.csv
HEAD = "prediction_P"  #: start of the columns of predictions.csv with the heads' own predictions


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of one or more models for N labelled images; ``""`` means not known."""

    classes: list[str]  #: names of the C classes, in the order of the probabilities
    names: list[str]  #: each image's path, as in the data set
    labels: NDArray[np.int64]  #: each image's class index, (N,)
    probabilities: NDArray[np.float64]  #: (N, C)
    sources: list[str]  #: each image's source
    patients: list[str]  #: each image's patient
    folds: list[str]  #: the fold of the model that predicted, "" if there is only one model
    heads: NDArray[np.int64] | None = None  #: each head's own guess, (heads, N); None if not known, or without heads
    problems: Sequence[str] = ()  #: a line for each image that could not be read, and that has no row here
    #: how unlike the training images each image is (`Prediction.unlike_training`), (N,), NaN if not known; or None
    unlike: NDArray[np.float64] | None = None

    @classmethod
    def from_records(
        cls,
        records: Sequence[Record],
        classes: Sequence[str],
        probabilities: NDArray[np.float64],
        heads: NDArray[np.float64] | None = None,
        problems: Sequence[str] = (),
        unlike: NDArray[np.float64] | None = None,
    ) -> PredictionTable:
        """The predictions of one model for these images, in their order.

        ``heads`` are each head's own probabilities, (heads, N, C).
        """
        return cls(
            classes=list(classes),
            names=[r.name for r in records],
            labels=np.array([classes.index(r.label) for r in records], dtype=np.int64),
            probabilities=probabilities,
            sources=[r.source for r in records],
            patients=[r.patient_id for r in records],
            folds=[""] * len(records),
            heads=None if heads is None else heads.argmax(-1),
            problems=problems,
            unlike=unlike,
        )

    def of_source(self, source: str) -> PredictionTable:
        """The images of one source."""
        return self.rows([row for row, name in enumerate(self.sources) if name == source])

    def rows(self, rows: Sequence[int]) -> PredictionTable:
        """Some of the images, by their numbers."""
        rows = list(rows)
        texts: dict[str, Any] = {
            key: [getattr(self, key)[row] for row in rows] for key in ("names", "sources", "patients", "folds")
        }
        heads = None if self.heads is None else self.heads[:, rows]
        return replace(
            self,
            **texts,
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            heads=heads,
            unlike=None if self.unlike is None else self.unlike[rows],
        )

    def with_classes(self, classes: Sequence[str]) -> PredictionTable:
        """The same with the same classes in another order."""
        order = [self.classes.index(name) for name in classes]
        place = np.argsort(order)
        heads = None if self.heads is None else place[self.heads]
        return replace(
            self,
            classes=list(classes),
            labels=place[self.labels],
            probabilities=self.probabilities[:, order],
            heads=heads,
        )

    @property
    def guesses(self) -> NDArray[np.intp]:
        """Each image's predicted class: the index of its highest probability, (N,)."""
        return self.probabilities.argmax(1)

    def row(self, i: int) -> dict[str, Any]:
        """One image's prediction as a row of a table."""
        label, guess = self.labels[i], self.probabilities[i].argmax()
        return {
            "path": self.names[i],
            "label": self.classes[label],
            "prediction": self.classes[guess],
            "probability": float(self.probabilities[i, guess]),
            "probability_of_label": float(self.probabilities[i, label]),
            "source": self.sources[i],
            "fold": self.folds[i],
        }

    @property
    def groups(self) -> list[str]:
        """Each image's patient (see `cvrnet.data.splits`)."""
        return [patient_key(patient, name) for patient, name in zip(self.patients, self.names, strict=True)]


def write_predictions(folder: Path, sets: Mapping[str, PredictionTable]) -> None:
    """Write predictions.csv: a row for each image, with the name of its set (``val``, ``test``, ``independent``).

    For a model that has heads, the columns ``prediction_P1`` and so on have each head's own prediction.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for split, table in sets.items():
            for i, p in enumerate(table.probabilities):
                # repr() is the shortest text that reads back as the same float64
                numbers = {f"prob_{name}": repr(float(value)) for name, value in zip(table.classes, p, strict=True)}
                row = {"path": table.names[i], "label": table.classes[table.labels[i]]}
                row |= {"prediction": table.classes[int(p.argmax())], **numbers}
                row |= {"source": table.sources[i], "patient_id": table.patients[i], "split": split}
                if table.unlike is not None:
                    row[UNLIKE] = "" if np.isnan(table.unlike[i]) else repr(float(table.unlike[i]))
                guesses = () if table.heads is None else table.heads[:, i]
                yield row | {f"{HEAD}{k}": table.classes[guess] for k, guess in enumerate(guesses, start=1)}

    write_csv(folder / PREDICTIONS, rows())


def read_predictions(folders: Sequence[Path], classes: Sequence[str], split: str) -> PredictionTable:
    """The predictions for one set (``val``, ``test``, ``independent``), joined from one or more folders.

    Refuses a file that is missing, damaged, of other classes, or without an image of the set.
    """
    rows, labels, probabilities, guesses, folds, unlike = [], [], [], [], [], []
    for number, folder in enumerate(folders, start=1):
        found = [r for r in read_rows(folder / PREDICTIONS, ("path", "label", "split")) if r["split"] == split]
        with damaged_files(folder / PREDICTIONS):
            labels += [classes.index(row["label"]) for row in found]
            probabilities += [[float(row[f"prob_{name}"]) for name in classes] for row in found]
            unlike += [float(row.get(UNLIKE) or "nan") for row in found]
            guesses += [[classes.index(row[key]) for key in row if key.startswith(HEAD)] for row in found]
        rows += found
        folds += [str(number) if len(folders) > 1 else ""] * len(found)
    if not rows:
        raise UserError(f"{folders[0] / PREDICTIONS} has no image of the set {split!r}")
    names, sources, patients = ([row.get(key) or "" for row in rows] for key in ("path", "source", "patient_id"))
    heads = np.array(guesses).T if all(guesses) else None
    table = np.array(probabilities)
    joined = PredictionTable(list(classes), names, np.array(labels), table, sources, patients, folds, heads)
    return joined if np.isnan(unlike).all() else replace(joined, unlike=np.array(unlike))
