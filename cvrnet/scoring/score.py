"""All numbers about one set of predictions: scores, their intervals, and the same for each source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.metrics import bootstrap_intervals, classification_scores
from cvrnet.metrics.bootstrap import exact_interval
from cvrnet.runs.predictions import Predictions

RATES = ("sensitivity", "specificity", "ppv", "npv")


def score(predictions: Predictions) -> dict[str, Any]:
    """The scores of `cvrnet.metrics.classification_scores`, with ``patients``, ``intervals`` and ``per_source`` beside.

    ``patients`` is their number, ``intervals`` has 95 % intervals in the same tree (see `intervals`), ``per_source``
    for each source the scores, and the intervals of accuracy and balanced accuracy.
    """
    p = predictions
    scores = classification_scores(p.labels, p.probabilities, p.classes)
    scores["patients"] = len(set(p.groups))
    scores["intervals"] = intervals(p, scores)
    scores["per_source"] = {}
    for source in sorted(set(p.sources)):
        part = p.of_source(source)
        own = classification_scores(part.labels, part.probabilities, p.classes)
        spread = bootstrap_intervals(part.labels, part.probabilities, p.classes, part.groups)
        own["patients"] = len(set(part.groups))
        own["intervals"] = {key: spread[key] for key in ("accuracy", "balanced_accuracy")}
        scores["per_source"][source] = own
    return scores


def intervals(predictions: Predictions, scores: dict[str, Any]) -> dict[str, Any]:
    """95 % intervals of all scores by bootstrap over patients.

    Where a class has not a single error (or hit), every resample agrees and the bootstrap gives no width. There the
    interval is the exact binomial one (Clopper and Pearson 1934) of as many independent trials as there are patients,
    and ``exact`` names it: ``NOR/sensitivity``.
    """
    p = predictions
    tree = bootstrap_intervals(p.labels, p.probabilities, p.classes, p.groups)
    guesses, groups = p.probabilities.argmax(1), np.array(p.groups)
    tree["exact"] = []
    for k, name in enumerate(p.classes):
        among: dict[str, NDArray[np.bool_]] = {
            "sensitivity": p.labels == k,
            "specificity": p.labels != k,
            "ppv": guesses == k,
            "npv": guesses != k,
        }
        for rate in RATES:
            value = scores["per_class"][name][rate]
            if value in (0.0, 1.0):
                patients = len(set(groups[among[rate]].tolist()))
                tree["per_class"][name][rate] = exact_interval(value, patients)
                tree["exact"].append(f"{name}/{rate}")
    return tree
