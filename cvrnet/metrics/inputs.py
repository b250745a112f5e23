"""Check labels and probabilities before they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError

SUM_TOLERANCE = 1e-2  # probabilities computed in bfloat16 sum to one within half a percent


def check(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels as int64 (N,) and probabilities as float64 (N, C); raise UserError if they cannot be scored."""
    labels, table = np.asarray(y_true), np.asarray(probabilities)
    if not labels.size:
        raise UserError("no samples to score")
    if labels.ndim != 1 or table.ndim != 2 or len(labels) != len(table):
        raise UserError(
            f"labels of shape {labels.shape} and probabilities of shape {table.shape}: expected (N,) and (N, C)"
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"labels of type {labels.dtype}: expected class indices (integers)")
    n_classes = table.shape[1]
    if n_classes < 2:
        raise UserError(f"{n_classes} column of probabilities: expected two or more classes, each with a column")
    if classes is not None and (len(classes) != n_classes or len(set(classes)) != n_classes):
        raise UserError(f"classes {list(classes)}: expected {n_classes} different names, one for each column")
    if labels.min() < 0 or labels.max() >= n_classes:
        wrong = labels[(labels < 0) | (labels >= n_classes)][0]
        raise UserError(f"label {wrong}: expected a class index from 0 to {n_classes - 1}")
    table = table.astype(np.float64)
    bad = ~(np.isfinite(table).all(1) & (table >= 0).all(1) & (np.abs(table.sum(1) - 1) <= SUM_TOLERANCE))
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"row {row} of the probabilities is {table[row].tolist()}: expected numbers from 0 to 1 with sum 1"
        )
    return labels.astype(np.int64), table


def unchecked() -> AbstractContextManager[None]:
    """Return a context in which scikit-learn does not check its inputs; the checks take half of the time of a score."""
    from sklearn import config_context  # here, because predictions need no scikit-learn

    context: AbstractContextManager[None] = config_context(assume_finite=True, skip_parameter_validation=True)
    return context
