"""ROC and precision-recall curves, one class against the others, and their macro averages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.metrics.inputs import check, unchecked

ABOVE_ALL = float(np.nextafter(1.0, 2.0))  # a threshold that no probability reaches


def roc_curves(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Return ROC curves: ``{"per_class": {name: curve}, "macro": curve}``.

    A curve holds ``fpr``, ``tpr``, ``threshold`` and ``auc``. For the decision "probability >= threshold", ``tpr`` is
    the sensitivity and ``fpr`` is 1 - specificity. The curve goes from (0, 0) to (1, 1). If no sample or every sample
    belongs to a class, its curve is None. The macro curve (without threshold) is the mean of the class curves, each
    interpolated linearly at the false-positive rates of all classes. Class curves can have vertical steps. So the macro
    curve has two points at each of these rates: one is the mean of the class curves at the lower ends of their steps,
    the other is their mean at the upper ends. The area under the macro curve is therefore the mean of the areas under
    the class curves. The macro curve is None if all class curves are None.

    >>> curves = roc_curves([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], ["NOR", "CVP"])
    >>> curves["per_class"]["CVP"]["tpr"], curves["macro"]["auc"]
    (array([0. , 0.5, 0.5, 1. , 1. ]), 0.75)
    """
    from sklearn import metrics as sk  # here, because predictions need no scikit-learn

    labels, table = check(y_true, probabilities, classes)
    per_class: dict[str, Any] = dict.fromkeys(classes)
    for k, name in enumerate(classes):
        truth = labels == k
        if truth.any() and not truth.all():
            with unchecked():
                fpr, tpr, threshold = sk.roc_curve(truth, table[:, k])
                area = float(sk.auc(fpr, tpr))
            threshold = np.minimum(threshold, ABOVE_ALL)  # scikit-learn's first threshold is infinite
            per_class[name] = {"fpr": fpr, "tpr": tpr, "threshold": threshold, "auc": area}
    curves = [curve for curve in per_class.values() if curve is not None]
    if not curves:
        return {"per_class": per_class, "macro": None}
    rates = np.unique(np.concatenate([curve["fpr"] for curve in curves]))
    tpr = np.zeros(2 * len(rates))  # summed curve by curve to save memory: there can be as many steps as images
    for curve in curves:
        tpr += _both_sides(rates, curve["fpr"], curve["tpr"])
    macro = {"fpr": np.repeat(rates, 2), "tpr": tpr / len(curves), "auc": float(np.mean([c["auc"] for c in curves]))}
    return {"per_class": per_class, "macro": macro}


def precision_recall_curves(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Return precision-recall curves: ``{"per_class": {name: curve}, "macro": curve}``.

    A curve holds ``recall`` (descending), ``precision``, ``threshold``, ``average_precision`` and ``prevalence``, the
    precision of random guessing. The curve of a class without samples is None. Average precision is
    sum_n (R_n - R_{n-1}) P_n: the area under a step curve, which has the precision P_n between the recalls R_{n-1} and
    R_n. The macro curve (without threshold) is the mean of the step curves at all their recalls, so the area under the
    macro curve is the mean of the average precisions.

    >>> curves = precision_recall_curves([0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], ["NOR", "CVP"])
    >>> curves["per_class"]["CVP"]["recall"], curves["per_class"]["CVP"]["precision"]
    (array([1., 1., 0., 0.]), array([0.33333333, 0.5       , 0.        , 1.        ]))
    >>> curves["per_class"]["CVP"]["average_precision"]
    0.5
    """
    from sklearn import metrics as sk  # here, because predictions need no scikit-learn

    labels, table = check(y_true, probabilities, classes)
    per_class: dict[str, Any] = dict.fromkeys(classes)
    for k, name in enumerate(classes):
        truth = labels == k
        if truth.any():
            with unchecked():
                precision, recall, threshold = sk.precision_recall_curve(truth, table[:, k])
                area = float(sk.average_precision_score(truth, table[:, k]))
            per_class[name] = {
                "recall": recall,
                "precision": precision,
                "threshold": np.append(threshold, ABOVE_ALL),
                "average_precision": area,
                "prevalence": float(truth.mean()),
            }
    curves = [curve for curve in per_class.values() if curve is not None]
    recall = np.unique(np.concatenate([curve["recall"] for curve in curves]))[::-1]
    precision = np.zeros(len(recall))
    for curve in curves:
        precision += curve["precision"][::-1][np.searchsorted(curve["recall"][::-1], recall)]
    macro = {"recall": recall, "precision": precision / len(curves)}
    means = {key: float(np.mean([c[key] for c in curves])) for key in ("average_precision", "prevalence")}
    return {"per_class": per_class, "macro": macro | means}


def _both_sides(x: NDArray[np.float64], xp: NDArray[np.float64], fp: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a piecewise linear curve's values at each x, from the left and the right of its steps: (2 len(x),)."""
    left, right = np.interp(-x, -xp[::-1], fp[::-1]), np.interp(x, xp, fp)
    return np.stack([left, right], axis=1).ravel()
