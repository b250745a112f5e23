"""Predictions of findings, and their predictions.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.finding_labels import join_findings
from cvrnet.data.findings import Truth, finding_truth
from cvrnet.data.record import Record
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_csv
from cvrnet.runs.layout import PREDICTIONS
from cvrnet.runs.predictions import UNLIKE
from cvrnet.runs.read import read_rows

_TEXTS = {1.0: "1", 0.0: "0"}  # of what is known


@dataclass(frozen=True)
class FindingTable:
    """The predictions of one or more models for N images and C findings; ``""`` means not known."""

    findings: list[str]  #: in the order of the probabilities
    names: list[str]  #: each image's path, as in the data set
    truth: Truth  #: 1, 0, or NaN where it is not known, (N, C)
    probabilities: NDArray[np.float64]  #: (N, C)
    sources: list[str]  #: each image's source
    patients: list[str]  #: each image's patient
    folds: list[str]  #: the fold of the model that predicted, "" if there is only one model
    heads: NDArray[np.float64] | None = None  #: each head's own probabilities, (heads, N, C); None if not known
    problems: Sequence[str] = ()  #: a line for each image that could not be read, and that has no row here
    unlike: NDArray[np.float64] | None = None  #: as in `PredictionTable`

    @classmethod
    def from_records(
        cls,
        records: Sequence[Record],
        findings: Sequence[str],
        probabilities: NDArray[np.float64],
        heads: NDArray[np.float64] | None = None,
        problems: Sequence[str] = (),
        unlike: NDArray[np.float64] | None = None,
        uncertain: str = "ignore",
    ) -> FindingTable:
        """The predictions of one model for these images, in their order."""
        return cls(
            findings=list(findings),
            names=[r.name for r in records],
            truth=finding_truth(records, findings, uncertain),
            probabilities=probabilities,
            sources=[r.source for r in records],
            patients=[r.patient_id for r in records],
            folds=[""] * len(records),
            heads=heads,
            problems=problems,
            unlike=unlike,
        )

    @property
    def groups(self) -> list[str]:
        """Each image's patient (see `cvrnet.data.splits`)."""
        return [patient_key(patient, name) for patient, name in zip(self.patients, self.names, strict=True)]

    def with_findings(self, findings: Sequence[str]) -> FindingTable:
        """The same with the same findings in another order."""
        order = [self.findings.index(name) for name in findings]
        return replace(
            self,
            findings=list(findings),
            truth=self.truth[:, order],
            probabilities=self.probabilities[:, order],
            heads=None if self.heads is None else self.heads[:, :, order],
        )

    def rows(self, rows: Sequence[int]) -> FindingTable:
        """Some of the images, by their numbers."""
        rows = list(rows)
        texts: dict[str, Any] = {
            key: [getattr(self, key)[row] for row in rows] for key in ("names", "sources", "patients", "folds")
        }
        return replace(
            self,
            **texts,
            truth=self.truth[rows],
            probabilities=self.probabilities[rows],
            heads=None if self.heads is None else self.heads[:, rows],
            unlike=None if self.unlike is None else self.unlike[rows],
        )


def write_finding_predictions(folder: Path, sets: Mapping[str, FindingTable]) -> None:
    """Write predictions.csv: a row for each image, with the name of its set and, for each finding, truth and answer.

    The columns are ``path``, ``label`` (the findings that the image has), ``true_FINDING`` (1, 0, or empty where it is
    not known) and ``prob_FINDING`` for each finding, ``source``, ``patient_id``, ``split``.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for split, table in sets.items():
            for i, (truth, p) in enumerate(zip(table.truth, table.probabilities, strict=True)):
                has = [name for name, value in zip(table.findings, truth, strict=True) if value == 1]
                row: dict[str, Any] = {"path": table.names[i], "label": join_findings(has)}
                row |= {f"true_{n}": _TEXTS.get(v, "") for n, v in zip(table.findings, truth.tolist(), strict=True)}
                row |= {f"prob_{n}": repr(v) for n, v in zip(table.findings, p.tolist(), strict=True)}
                row |= {"source": table.sources[i], "patient_id": table.patients[i], "split": split}
                if table.unlike is not None:
                    row[UNLIKE] = "" if np.isnan(table.unlike[i]) else repr(float(table.unlike[i]))
                yield row

    write_csv(folder / PREDICTIONS, rows())


def read_finding_predictions(folders: Sequence[Path], findings: Sequence[str], split: str) -> FindingTable:
    """The predictions for one set, joined from one or more folders.

    Refuses a file that is missing, damaged, of other findings, or without an image of the set.
    """
    rows: list[dict[str, str]] = []
    folds: list[str] = []
    tables: list[list[list[float]]] = []
    for number, folder in enumerate(folders, start=1):
        found = [r for r in read_rows(folder / PREDICTIONS, ("path", "split")) if r["split"] == split]
        with damaged_files(folder / PREDICTIONS):
            tables += [
                [[float(row[f"{kind}_{name}"] or "nan") for name in findings] for kind in ("true", "prob")]
                for row in found
            ]
        rows += found
        folds += [str(number) if len(folders) > 1 else ""] * len(found)
    if not rows:
        raise UserError(f"{folders[0] / PREDICTIONS} has no image of the set {split!r}")
    names, sources, patients = ([row.get(key) or "" for row in rows] for key in ("path", "source", "patient_id"))
    truth, probabilities = np.array(tables).transpose(1, 0, 2)
    with damaged_files(folders[0] / PREDICTIONS):
        unlike = np.array([float(row.get(UNLIKE) or "nan") for row in rows])
    joined = FindingTable(list(findings), names, truth, probabilities, sources, patients, folds)
    return joined if np.isnan(unlike).all() else replace(joined, unlike=unlike)
