"""Scores of predictions, with intervals, by source and by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvrnet.metrics import bootstrap_intervals, classification_scores, mean_std
from cvrnet.metrics.bootstrap import exact_interval
from cvrnet.runs.predictions import PredictionTable

__all__ = ["head_rows", "score"]

RATES = ("sensitivity", "specificity", "ppv", "npv")


def score(predictions: PredictionTable) -> dict[str, Any]:
    """The scores of `cvrnet.metrics.classification_scores`, and ``patients``, ``intervals`` and ``per_source``.

    ``patients`` is the number of patients. ``intervals`` has 95 % intervals in the same tree (see `intervals`).
    ``per_source`` has the scores for each source, with the intervals of accuracy and balanced accuracy.
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


def intervals(predictions: PredictionTable, scores: dict[str, Any]) -> dict[str, Any]:
    """95 % intervals of all scores by bootstrap over patients.

    If a class has no errors (or no hits), all resamples agree, and the bootstrap gives no interval. The interval is
    then the exact binomial one, with as many independent trials as there are patients, and ``exact`` lists the score as
    ``NOR/sensitivity``.
    """
    p = predictions
    tree = bootstrap_intervals(p.labels, p.probabilities, p.classes, p.groups)
    guesses, groups = p.probabilities.argmax(1), np.array(p.groups)
    tree["exact"] = []
    for k, name in enumerate(p.classes):
        trials = (p.labels == k, p.labels != k, guesses == k, guesses != k)  # the images that each rate is a share of
        for rate, among in zip(RATES, trials, strict=True):
            value = scores["per_class"][name][rate]
            if value in (0.0, 1.0):
                patients = len(set(groups[among].tolist()))
                tree["per_class"][name][rate] = exact_interval(value, patients)
                tree["exact"].append(f"{name}/{rate}")
    return tree


def head_rows(folds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each head, the mean of the heads, the best of them, and the average, which is the model's output.

    ``accuracy`` and ``std`` are the mean and standard deviation over the folds (std None for a single one). The best
    head has the highest mean over the folds. It is chosen on the images that it is scored on, so its score is too good.

    ``folds`` are the scores of each fold. There are no rows for a model without heads, which has no ``head_accuracy``.

    >>> fold = {"accuracy": 0.9, "head_accuracy": {"P1": 0.6, "P2": 0.8}}
    >>> [(row["head"], round(row["accuracy"], 2)) for row in head_rows([fold])]
    [('P1', 0.6), ('P2', 0.8), ('mean of the heads', 0.7), ('best head (P2)', 0.8), ('average (the model)', 0.9)]
    """
    if any("head_accuracy" not in fold for fold in folds):
        return []
    names = list(folds[0]["head_accuracy"])
    rows = {name: mean_std([fold["head_accuracy"][name] for fold in folds]) for name in names}
    best = max(names, key=lambda name: rows[name]["mean"])
    rows["mean of the heads"] = mean_std([sum(fold["head_accuracy"].values()) / len(names) for fold in folds])
    rows[f"best head ({best})"] = rows[best]
    rows["average (the model)"] = mean_std([fold["accuracy"] for fold in folds])
    return [
        {"head": name, "accuracy": value["mean"], "std": value["std"] if len(folds) > 1 else None}
        for name, value in rows.items()
    ]
