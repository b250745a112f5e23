"""Read a run's split.csv: the set or fold of each image and of its patient."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from cvrnet.data.cells import clean
from cvrnet.data.patients import patient_ids
from cvrnet.data.record import Record
from cvrnet.data.splits import refuse_shared_patients
from cvrnet.errors import UserError
from cvrnet.runs.read import read_rows

_COLUMNS = ("path", "label", "source", "patient_id")


def split_row(record: Record, fold: str | int) -> dict[str, Any]:
    """Return a row of split.csv; ``fold`` is ``train``, ``val``, ``independent``, or the fold that tests the image."""
    values = (record.name, record.label, record.source, record.patient_id)
    return {**dict(zip(_COLUMNS, values, strict=True)), "fold": fold}


class SplitTable:
    """The rows of split.csv (see `split_row`), and methods that find the fold of an image or of its patient.

    An image is identified by its path, label, source and patient together, because different data sets may use the
    same file name. An image that is not in the table belongs to the fold of its patient (see `cvrnet.data.splits`).
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows = [{**row, "path": _composed(row["path"])} for row in rows]
        key = itemgetter(*_COLUMNS)
        self._images = {key(row): row["fold"] for row in rows}
        self._patients = {row["patient_id"]: row["fold"] for row in rows if row["patient_id"]}

    @classmethod
    def read(cls, path: Path) -> SplitTable:
        """Read a run's split.csv; raises the same errors as `cvrnet.runs.read.read_rows`."""
        rows = read_rows(path, (*_COLUMNS, "fold"))
        # An older version may have written labels, sources and patients as the data set spelled them.
        for row, patient in zip(rows, patient_ids([row["patient_id"] for row in rows]), strict=True):
            row |= {"label": clean(row["label"]), "source": clean(row["source"]), "patient_id": patient}
        return cls(rows)

    @property
    def sources(self) -> set[str]:
        """The sources of the images, including "" if the source of an image is not known."""
        return {row["source"] for row in self.rows}

    def without(self, folds: Collection[str]) -> SplitTable:
        """Return a table without the rows of these folds."""
        return SplitTable([row for row in self.rows if row["fold"] not in folds])

    def fold_of(self, record: Record) -> str | None:
        """Return the image's fold; if it is not in the table, its patient's fold; if neither is in the table, None."""
        image = self._images.get((_composed(record.name), record.label, record.source, record.patient_id))
        return image or self._patients.get(record.patient_id)

    def found(self, records: Sequence[Record]) -> list[Record]:
        """Return the images whose path or patient is in the table, even if label or source differ.

        An image of another data set may have one of these paths, too. It is returned, because equal paths usually mean
        the same picture.
        """
        paths = {row["path"] for row in self.rows}
        return [r for r in records if _composed(r.name) in paths or self.fold_of(r) is not None]

    def count(self, records: Sequence[Record]) -> int:
        """Return the number of images that `found` returns."""
        return len(self.found(records))


def _composed(name: str) -> str:
    """Return a file's name in the Unicode form NFC, because file systems store one name in different forms."""
    return unicodedata.normalize("NFC", name)


def read_folds(path: Path, records: Sequence[Record]) -> list[int]:
    """Return each record's fold, from the split.csv of another cross-validation of these images.

    Raises:
        UserError: The split.csv is from another data set or another kind of job, or folds share a patient.
    """
    folds = {_composed(row["path"]): row["fold"] for row in read_rows(path, ("path", "fold"))}
    missing = [r.name for r in records if not folds.get(_composed(r.name), "").isdigit()]
    if missing:
        raise UserError(f"{path} gives no fold for {len(missing)} of {len(records)} images, such as {missing[0]}")
    numbers = [int(folds[_composed(r.name)]) for r in records]
    if set(numbers) != set(range(1, max(numbers) + 1)) or max(numbers) < 3:
        raise UserError(f"{path} has the folds {sorted(set(numbers))}; expected 1 to n, where n is at least 3")
    sets: dict[str, list[Record]] = {}
    for record, number in zip(records, numbers, strict=True):
        sets.setdefault(f"fold {number}", []).append(record)
    refuse_shared_patients(sets)
    return numbers
