"""Calibration (do probabilities match frequencies?): Brier score, expected calibration error, reliability curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.inputs import check

ECE_BINS = 15


def brier_score(y_true: ArrayLike, probabilities: ArrayLike) -> float:
    """Return Brier's score over all classes: mean over samples of sum_k (p_k - [y = k])², 0 to 2 (Brier 1950).

    With two classes, it is twice the Brier score of the positive class alone.

    >>> brier_score([0, 1], [[1.0, 0.0], [0.5, 0.5]])
    0.25
    """
    return float(squared_errors(*check(y_true, probabilities)).mean())


def expected_calibration_error(y_true: ArrayLike, probabilities: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """Return the mean gap between highest probability and accuracy, over bins (Naeini et al. 2015, Guo et al. 2017).

    ``ECE = sum_m |B_m|/N · |accuracy(B_m) - mean confidence(B_m)|``, with bins ``((m-1)/M, m/M]`` of equal width. The
    ECE depends on the number of bins and is biased upwards in small samples: compare models on the same samples with
    the same bins.

    >>> expected_calibration_error([0, 1], [[0.75, 0.25], [0.75, 0.25]])
    0.25
    """
    labels, table = check(y_true, probabilities)
    bins = bin_numbers(table.max(1), n_bins)
    gap = np.bincount(bins, weights=(table.argmax(1) == labels) - table.max(1), minlength=n_bins)
    return float(np.abs(gap).sum() / len(labels))


def calibration_curve(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], n_bins: int = ECE_BINS
) -> dict[str, Any]:
    """Return reliability curves: mean predicted probability against observed frequency, in bins of equal width.

    Returns ``{"per_class": {name: curve}, "top_label": curve}``. A curve has arrays over the bins that are not empty:
    ``predicted`` (mean probability), ``observed`` (frequency), ``count``, and the bin's edges ``lower`` and ``upper``.
    A class's curve compares its probability with its frequency (as in `sklearn.calibration.calibration_curve`). The top
    label's curve compares the highest probability with the accuracy. This curve also has ``expected_calibration_error``
    and ``brier_score``.

    >>> curve = calibration_curve([0, 1], [[0.75, 0.25], [0.75, 0.25]], ["NOR", "CVP"])["top_label"]
    >>> curve["predicted"], curve["observed"], curve["count"]
    (array([0.75]), array([0.5]), array([2]))
    """
    labels, table = check(y_true, probabilities, classes)
    top = _reliability(table.argmax(1) == labels, table.max(1), n_bins)
    top["expected_calibration_error"] = expected_calibration_error(labels, table, n_bins)
    top["brier_score"] = brier_score(labels, table)
    per_class = {name: _reliability(labels == k, table[:, k], n_bins) for k, name in enumerate(classes)}
    return {"per_class": per_class, "top_label": top}


def squared_errors(labels: NDArray[np.int64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each sample's squared error, whose mean is the Brier score: shape (N,)."""
    return ((table - np.eye(table.shape[1])[labels]) ** 2).sum(1)


def _reliability(truth: NDArray[np.bool_], predicted: NDArray[np.float64], n_bins: int) -> dict[str, Any]:
    bins = bin_numbers(predicted, n_bins)
    count = np.bincount(bins, minlength=n_bins)
    filled, edges = count > 0, np.linspace(0, 1, n_bins + 1)
    return {
        "predicted": np.bincount(bins, weights=predicted, minlength=n_bins)[filled] / count[filled],
        "observed": np.bincount(bins, weights=truth, minlength=n_bins)[filled] / count[filled],
        "count": count[filled],
        "lower": edges[:-1][filled],
        "upper": edges[1:][filled],
    }


def bin_numbers(probability: NDArray[np.float64], n_bins: int) -> NDArray[np.intp]:
    """Return the index of each probability's bin: bin i is (i/M, (i+1)/M], where M is ``n_bins``; 0 is in bin 0."""
    if n_bins < 1:
        raise UserError(f"{n_bins} bins: expected at least 1")
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], probability)
