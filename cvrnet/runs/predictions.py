"""Hold the predictions for labelled images, and read and write predictions.csv."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.record import Record
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_csv
from cvrnet.runs.layout import PREDICTIONS
from cvrnet.runs.read import read_rows

UNLIKE = "unlike_training"  #: column of predictions.csv
HEAD = "prediction_P"  #: start of the names of the columns with the heads' own predictions

Table = TypeVar("Table", bound="AnyTable")


@dataclass(frozen=True)
class AnyTable(ABC):
    """The predictions of one or more models for N labelled images.

    This is the base class of `PredictionTable` (each image has one class) and `FindingTable` (an image may have several
    findings). In ``sources`` and ``patients``, "" means that the value is not known.
    """

    task: ClassVar[str]  #: as in run.json

    classes: list[str]  #: names of the C classes or findings, in the order of the probabilities
    names: list[str]  #: each image's path, as in the data set
    labels: NDArray[Any]  #: the true labels, (N, ...)
    probabilities: NDArray[np.float64]  #: (N, C)
    sources: list[str]  #: each image's source
    patients: list[str]  #: each image's patient
    folds: list[str]  #: the fold of the model that predicted each image; "" if there is only one model
    heads: NDArray[Any] | None = None  #: each head's own predictions, (heads, N, ...); None if the model has no heads
    problems: Sequence[str] = ()  #: a line for each image that could not be read, and so is not in this table
    #: how unlike the training images each image is (`Prediction.unlike_training`), (N,), NaN if not known; None if the
    #: model cannot detect unusual images
    unlike: NDArray[np.float64] | None = None

    @classmethod
    def from_records(
        cls: type[Table],
        records: Sequence[Record],
        classes: Sequence[str],
        probabilities: NDArray[np.float64],
        heads: NDArray[np.float64] | None = None,
        problems: Sequence[str] = (),
        unlike: NDArray[np.float64] | None = None,
    ) -> Table:
        """Make the table of one model's predictions, in the order of the records.

        ``probabilities`` are (N, C); ``heads`` are each head's own probabilities, (heads, N, C).
        """
        return cls(
            classes=list(classes),
            names=[r.name for r in records],
            labels=cls._labels(records, classes),
            probabilities=probabilities,
            sources=[r.source for r in records],
            patients=[r.patient_id for r in records],
            folds=[""] * len(records),
            heads=None if heads is None else cls._heads(heads),
            problems=problems,
            unlike=unlike,
        )

    @classmethod
    def read(cls: type[Table], folders: Sequence[Path], classes: Sequence[str], split: str) -> Table:
        """Read the predictions for one set (``val``, ``test``, ``independent``) from one or more folders.

        Raises:
            UserError: A file is missing, is damaged, or has other classes than ``classes``; or no image is in the set.
        """
        rows: list[dict[str, str]] = []
        parsed, probabilities, folds, unlike = [], [], [], []
        for number, folder in enumerate(folders, start=1):
            found = [r for r in read_rows(folder / PREDICTIONS, ("path", "label", "split")) if r["split"] == split]
            with damaged_files(folder / PREDICTIONS):
                parsed += [cls.parse(found, classes)] if found else []
                probabilities += [[float(row[f"prob_{name}"]) for name in classes] for row in found]
                unlike += [float(row.get(UNLIKE) or "nan") for row in found]
            rows += found
            folds += [str(number) if len(folders) > 1 else ""] * len(found)
        if not rows:
            raise UserError(f"{folders[0] / PREDICTIONS} has no image of the set {split!r}")
        names, sources, patients = ([row.get(key) or "" for row in rows] for key in ("path", "source", "patient_id"))
        labels = np.concatenate([part[0] for part in parsed])
        heads = np.concatenate([part[1] for part in parsed], axis=1) if min(map(len, parsed)) > 1 else None
        joined = cls(list(classes), names, labels, np.array(probabilities), sources, patients, folds, heads)
        return joined if np.isnan(unlike).all() else replace(joined, unlike=np.array(unlike))

    @classmethod
    @abstractmethod
    def _labels(cls, records: Sequence[Record], classes: Sequence[str]) -> NDArray[Any]: ...

    @classmethod
    @abstractmethod
    def _heads(cls, probabilities: NDArray[np.float64]) -> NDArray[Any]: ...

    @classmethod
    @abstractmethod
    def parse(cls, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """Return the labels in rows of predictions.csv and, if the rows have them, the predictions of the heads.

        The result is a tuple of one or two arrays.

        Raises:
            KeyError, ValueError: The file has other classes than ``classes``.
        """

    @abstractmethod
    def truth(self, k: int) -> NDArray[np.float64]:
        """Return whether each image has class or finding ``k``: 1, 0, or NaN if not known; (N,)."""

    def sides(self, k: int) -> tuple[int, int]:
        """Return how many patients have class or finding ``k`` in some image, and how many lack it in some image.

        A patient with several images may count in both numbers.
        """
        truth, patients = self.truth(k), np.array(self.groups)
        return len({*patients[truth == 1].tolist()}), len({*patients[truth == 0].tolist()})

    @abstractmethod
    def cells(self, i: int) -> dict[str, Any]:
        """Return an image's cells ``label`` and ``prediction`` or, for findings, ``label`` and ``true_FINDING``."""

    def head_cells(self, i: int) -> dict[str, Any]:
        """Return the heads' own predictions for an image, for predictions.csv."""
        return {}

    @abstractmethod
    def with_classes(self: Table, classes: Sequence[str]) -> Table:
        """Return the table with its classes in the order of ``classes``."""

    def of_source(self: Table, source: str) -> Table:
        """Return a table with only the images of one source."""
        return self.rows([row for row, name in enumerate(self.sources) if name == source])

    def rows(self: Table, rows: Sequence[int]) -> Table:
        """Return a table with only the images whose indices are ``rows``, in this order."""
        rows = list(rows)
        texts: dict[str, Any] = {
            key: [getattr(self, key)[row] for row in rows] for key in ("names", "sources", "patients", "folds")
        }
        return replace(
            self,
            **texts,
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            heads=None if self.heads is None else self.heads[:, rows],
            unlike=None if self.unlike is None else self.unlike[rows],
        )

    @property
    def groups(self) -> list[str]:
        """Each image's patient key; an image without a patient id has a key of its own (see `cvrnet.data.splits`)."""
        return [patient_key(patient, name) for patient, name in zip(self.patients, self.names, strict=True)]


@dataclass(frozen=True)
class PredictionTable(AnyTable):
    """The predictions for N images that each have one class.

    ``labels`` (N,) are class indices; ``heads`` (heads, N) are the indices of each head's predicted class.
    """

    task = "multiclass"

    @classmethod
    def _labels(cls, records: Sequence[Record], classes: Sequence[str]) -> NDArray[np.int64]:
        return np.array([classes.index(r.label) for r in records], dtype=np.int64)

    @classmethod
    def _heads(cls, probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
        return probabilities.argmax(-1)

    @classmethod
    def parse(cls, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """See `AnyTable`."""
        labels = np.array([classes.index(row["label"]) for row in rows], dtype=np.int64)
        heads = [[classes.index(row[key]) for key in row if key.startswith(HEAD)] for row in rows]
        return (labels, np.array(heads).T) if all(heads) else (labels,)

    def with_classes(self, classes: Sequence[str]) -> PredictionTable:
        """See `AnyTable`."""
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

    def truth(self, k: int) -> NDArray[np.float64]:
        """See `AnyTable`."""
        return (self.labels == k).astype(np.float64)

    @property
    def guesses(self) -> NDArray[np.intp]:
        """Each image's predicted class: the index of its highest probability, (N,)."""
        return self.probabilities.argmax(1)

    def row(self, i: int) -> dict[str, Any]:
        """Return an image's label and prediction, with its path, source and fold, for the report."""
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

    def cells(self, i: int) -> dict[str, Any]:
        """See `AnyTable`."""
        return {"label": self.classes[self.labels[i]], "prediction": self.classes[int(self.probabilities[i].argmax())]}

    def head_cells(self, i: int) -> dict[str, Any]:
        """Return the cells of the columns ``prediction_P1`` and so on."""
        guesses = () if self.heads is None else self.heads[:, i]
        return {f"{HEAD}{k}": self.classes[guess] for k, guess in enumerate(guesses, start=1)}


def write_predictions(folder: Path, sets: Mapping[str, AnyTable]) -> None:
    """Write predictions.csv: a row for each image, with the name of its set (``val``, ``test``, ``independent``).

    The columns are, in this order: ``path``; the columns of `AnyTable.cells`; ``prob_NAME`` for each class or finding;
    ``source``; ``patient_id``; ``split`` (the name of the set); ``unlike_training``, if the model has a novelty head;
    the columns of `AnyTable.head_cells`.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for split, table in sets.items():
            for i, p in enumerate(table.probabilities.tolist()):
                row = {"path": table.names[i], **table.cells(i)}
                # repr() is the shortest text that reads back as exactly this float64
                row |= {f"prob_{name}": repr(value) for name, value in zip(table.classes, p, strict=True)}
                row |= {"source": table.sources[i], "patient_id": table.patients[i], "split": split}
                if table.unlike is not None:
                    row[UNLIKE] = "" if np.isnan(table.unlike[i]) else repr(float(table.unlike[i]))
                yield row | table.head_cells(i)

    write_csv(folder / PREDICTIONS, rows())
