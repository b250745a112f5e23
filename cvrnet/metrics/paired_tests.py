"""Test whether two models differ, from scores that were measured on the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cvrnet.errors import UserError


def corrected_resampled_t_test(differences: ArrayLike, n_train: float, n_test: float) -> dict[str, Any]:
    """Test paired differences, one per fold, against zero: Nadeau and Bengio's corrected resampled t-test.

    The folds of a cross-validation share training images, so their differences are correlated, and the usual paired
    t-test finds differences that do not exist (Dietterich 1998). This test multiplies the variance by
    (1/k + n_test/n_train) instead of 1/k (Nadeau and Bengio 2003, "Inference for the generalization error", eq. 5),
    with k - 1 degrees of freedom.

    Args:
        differences: The score of one model minus that of the other for each fold: shape (k,), k at least 2.
        n_train: Number of images on which a fold's model was trained.
        n_test: Number of images on which this model was tested; 0 gives the usual paired t-test.

    Returns:
        ``mean``, ``low`` and ``high`` (95 % confidence interval), ``t``, and two-sided ``p``. If the difference is the
        same in all folds, the interval has no width, and p is 1 for a difference of 0, otherwise 0.

    Raises:
        UserError: Fewer than two folds, no training images, or a negative number of test images.

    >>> test = corrected_resampled_t_test([0.02, 0.05, 0.01, 0.04, 0.03], n_train=300, n_test=100)
    >>> round(test["mean"], 3), round(test["low"], 3), round(test["high"], 3), round(test["p"], 3)
    (0.03, -0.002, 0.062, 0.06)
    """
    from scipy.special import stdtr, stdtrit  # Student's t; here, because predictions need no SciPy

    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise UserError(f"differences of shape {values.shape}; expected the differences of at least 2 folds")
    if n_train <= 0 or n_test < 0:
        raise UserError(f"n_train={n_train}, n_test={n_test}; expected n_train at least 1, and n_test at least 0")
    k, mean = len(values), float(values.mean())
    error = float(np.sqrt((1 / k + n_test / n_train) * values.var(ddof=1)))
    half = float(stdtrit(k - 1, 0.975)) * error
    t = mean / error if error else (0.0 if mean == 0 else float(np.copysign(np.inf, mean)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "t": t, "p": float(2 * stdtr(k - 1, -abs(t)))}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are adjusted for the number of comparisons by Holm's method (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return adjusted[np.argsort(order)].tolist()
