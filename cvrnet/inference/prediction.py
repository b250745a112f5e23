"""The prediction for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.finding_labels import join_findings
from cvrnet.inference.uncertainty import UNCERTAINTY
from cvrnet.metrics.novelty import is_marked

GATE = ("unlike_training", "unusual")
"""Columns of tables: `Prediction.unlike_training`, and `Prediction.marked` as 1 or 0."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image."""

    path: Path  #: the image
    #: The most probable class; for a model of findings, all findings with a probability of at least 0.5, joined by
    #: ``|``, or ``No Finding``. "" if there is no prediction.
    label: str
    probabilities: NDArray[np.float64]  #: probability of each class or finding, (C,)
    heads: NDArray[np.float64] | None = None  #: each head's own probabilities, (heads, C), if requested
    error: str = ""  #: why there is no prediction: the image could not be read, or the numbers overflowed; otherwise ""
    #: Entropy of the probabilities, in nats: how uncertain the ensemble is. NaN if there is no prediction, and for
    #: means over the slices of a CT.
    predictive_entropy: float = math.nan
    #: How much the members (every head of every fold) disagree, in nats; 0 for one fold without heads. NaN if
    #: ``predictive_entropy`` is NaN.
    mutual_information: float = math.nan
    #: How much the image differs from the training images: the share of the validation images that are nearer to the
    #: training images than this image is. NaN if the model cannot detect unusual images.
    unlike_training: float = math.nan
    #: Distances from the training images of each fold (`cvrnet.heads.novelty`), (folds,); empty without novelty heads.
    distances: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    #: For a model that sees only the lungs: ``mask``, ``crop``, or why the picture was used whole; otherwise "".
    lungs: str = ""

    @property
    def marked(self) -> bool:
        """Whether the image is farther from the training images than 95 % of the validation images."""
        return bool(is_marked(self.unlike_training))

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return a table row: path, prediction, error and, if there is a prediction, its numbers.

        The numbers are ``prob_CLASS`` for each class, the columns of `cvrnet.inference.uncertainty`, the columns `GATE`
        if the model can detect unusual images, and, if `heads` is set, ``head_1_CLASS`` and so on. If `lungs` is not
        empty, the row has it, too.
        """
        row: dict[str, Any] = {"path": str(self.path), "prediction": self.label, "error": self.error}
        row |= {"lungs": self.lungs} if self.lungs else {}
        if not self.error:
            row |= {f"prob_{name}": float(p) for name, p in zip(classes, self.probabilities, strict=True)}
            uncertainty = {name: getattr(self, name) for name in UNCERTAINTY}
            row |= {name: None if math.isnan(value) else value for name, value in uncertainty.items()}
            if not math.isnan(self.unlike_training):
                row |= dict(zip(GATE, (self.unlike_training, int(self.marked)), strict=True))
            for i, head in enumerate(() if self.heads is None else self.heads, start=1):
                row |= {f"head_{i}_{name}": float(p) for name, p in zip(classes, head, strict=True)}
        return row


def label_of(probabilities: NDArray[np.float64], classes: Sequence[str], task: str) -> str:
    """Return the most probable class.

    For a model of findings, return all findings that have a probability of at least 0.5, joined by ``|``, or
    ``No Finding``.
    """
    if task == "multiclass":
        return classes[int(probabilities.argmax())]
    return join_findings([name for name, p in zip(classes, probabilities, strict=True) if p >= 0.5])
