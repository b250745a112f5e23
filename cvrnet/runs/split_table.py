"""A run's split.csv: which image, and so which patient, belongs to which set or fold."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from cvrnet.data.record import Record
from cvrnet.files import damaged_files


def split_row(record: Record, fold: str | int) -> dict[str, Any]:
    """A row of split.csv.

    Args:
        record: The image.
        fold: ``train``, ``val`` or ``test``; of a cross-validation the number of the fold that the image tests, or
            ``independent``.
    """
    return {
        "path": record.name,
        "label": record.label,
        "source": record.source,
        "patient_id": record.patient_id,
        "fold": fold,
    }


class SplitTable:
    """The rows of split.csv, asked by image.

    An image is known by its path, label, source and patient together, since folders of different data sets share file
    names; an image that is not there goes by its patient.

    Args:
        rows: Of `split_row`.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        key = itemgetter("path", "label", "source", "patient_id")
        self._images = {key(row): row["fold"] for row in rows}
        self._patients = {(row["source"], row["patient_id"]): row["fold"] for row in rows if row["patient_id"]}

    @classmethod
    def read(cls, path: Path) -> SplitTable:
        """Read a run's split.csv.

        Raises:
            UserError: It is damaged.
        """
        with damaged_files(path), path.open(encoding="utf-8", newline="") as file:
            return cls(list(csv.DictReader(file)))

    @property
    def sources(self) -> set[str]:
        """The sources of the images, "" among them where one is not known."""
        return {row["source"] for row in self.rows}

    def without(self, folds: Collection[str]) -> SplitTable:
        """The other folds' rows."""
        return SplitTable([row for row in self.rows if row["fold"] not in folds])

    def fold_of(self, record: Record) -> str | None:
        """The image's fold, or else its patient's; None where neither is there."""
        image = self._images.get((record.name, record.label, record.source, record.patient_id))
        return image or self._patients.get((record.source, record.patient_id))

    def count(self, records: Sequence[Record]) -> int:
        """How many of the images, by their paths alone or by their patients, are there: rather too many."""
        paths = {row["path"] for row in self.rows}
        return sum(r.name in paths or self.fold_of(r) is not None for r in records)
