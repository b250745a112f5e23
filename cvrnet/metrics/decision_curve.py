"""Decision curves: the benefit of acting on a model's probabilities (Vickers & Elkin 2006, Med Decis Making 26:565)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cvrnet.metrics.inputs import check

THRESHOLDS = np.arange(1, 100) / 100


def decision_curves(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Return the net benefit of each class against the others: ``{"per_class": {name: curve}, "macro": curve}``.

    A curve has ``threshold``, ``net_benefit`` and ``treat_all``, for thresholds of 0.01 to 0.99. The threshold is the
    lowest probability at which the user would act (treat, or examine further). A threshold of 0.2 means that one missed
    patient is as bad as four needless actions. Net benefit = TP / N - FP / N * threshold / (1 - threshold), in true
    positives per image: the gain from acting on the model's probability, minus the cost of needless actions.
    ``treat_all`` is the net benefit of acting on every image; acting on no image has the net benefit 0. At a threshold
    where the model's net benefit is below ``treat_all`` or below 0, the model is of no use.

    Net benefits hold for the share of the class among these images, and for the probabilities as they are, calibrated
    or not. The curve of a class without images is None. The macro curve is the mean of the other curves.

    >>> curve = decision_curves([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], ["NOR", "CVP"])
    >>> [round(float(curve["per_class"]["CVP"][key][49]), 2) for key in ("threshold", "net_benefit", "treat_all")]
    [0.5, 0.25, 0.0]
    """
    labels, table = check(y_true, probabilities, classes)
    cost = THRESHOLDS / (1 - THRESHOLDS)
    per_class: dict[str, Any] = dict.fromkeys(classes)
    for k, name in enumerate(classes):
        truth = labels == k
        if truth.any():
            # The numbers of images (of the class, of other classes) whose probability is at least each threshold.
            true = truth.sum() - np.searchsorted(np.sort(table[truth, k]), THRESHOLDS)
            false = (~truth).sum() - np.searchsorted(np.sort(table[~truth, k]), THRESHOLDS)
            per_class[name] = {
                "threshold": THRESHOLDS,
                "net_benefit": (true - false * cost) / len(truth),
                "treat_all": truth.mean() - (~truth).mean() * cost,
            }
    curves = [curve for curve in per_class.values() if curve is not None]
    means = {key: np.mean([curve[key] for curve in curves], axis=0) for key in ("net_benefit", "treat_all")}
    return {"per_class": per_class, "macro": {"threshold": THRESHOLDS, **means}}
