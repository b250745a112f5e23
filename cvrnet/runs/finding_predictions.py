"""Hold the predictions of findings; an image may have several findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.finding_labels import join_findings
from cvrnet.data.findings import Truth, known_findings
from cvrnet.data.record import Record
from cvrnet.runs.predictions import AnyTable, PredictionTable

_TEXTS = {1.0: "1", 0.0: "0"}  # cells of known labels; an unknown label is an empty cell


@dataclass(frozen=True)
class FindingTable(AnyTable):
    """Predictions of findings, for N images and C findings; an image may have several findings.

    ``labels`` (N, C) are 1, 0, or NaN if not known. ``heads`` (heads, N, C) are each head's own probabilities, which
    are not written to predictions.csv.
    """

    task = "multilabel"

    @classmethod
    def _labels(cls, records: Sequence[Record], classes: Sequence[str]) -> Truth:
        return known_findings(records)

    @classmethod
    def _heads(cls, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        return probabilities

    @classmethod
    def parse(cls, rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """See `AnyTable`."""
        return (np.array([[float(row[f"true_{name}"] or "nan") for name in classes] for row in rows]),)

    def with_classes(self, classes: Sequence[str]) -> FindingTable:
        """Return the table with only these findings, in this order."""
        order = [self.classes.index(name) for name in classes]
        return replace(
            self,
            classes=list(classes),
            labels=self.labels[:, order],
            probabilities=self.probabilities[:, order],
            heads=None if self.heads is None else self.heads[:, :, order],
        )

    def truth(self, k: int) -> NDArray[np.float64]:
        """See `AnyTable`."""
        return self.labels[:, k]

    def cells(self, i: int) -> dict[str, Any]:
        """Return the cells ``label`` (the findings of image ``i``) and ``true_FINDING`` (1, 0, or empty if unknown)."""
        truth = dict(zip(self.classes, self.labels[i].tolist(), strict=True))
        known = {f"true_{name}": _TEXTS.get(value, "") for name, value in truth.items()}
        return {"label": self.label(i), **known}

    def label(self, i: int) -> str:
        """Return the findings that image ``i`` has, as in the column ``label``."""
        return join_findings([name for name, value in zip(self.classes, self.labels[i], strict=True) if value == 1])


def table_kind(run: Mapping[str, Any]) -> type[AnyTable]:
    """Return `FindingTable` if run.json says that the model predicts findings, otherwise `PredictionTable`."""
    return FindingTable if run.get("task") == FindingTable.task else PredictionTable
