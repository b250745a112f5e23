"""Score predictions: on all images, on each source and for each head, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from cvrnet.metrics import bootstrap_intervals, classification_scores, mean_std
from cvrnet.metrics.bootstrap import accuracy_intervals, balanced_accuracies, exact_interval
from cvrnet.metrics.findings import finding_rankings, finding_scores
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.runs.predictions import AnyTable, PredictionTable

__all__ = ["head_rows", "score"]

RATES = ("sensitivity", "specificity", "ppv", "npv")
MIN_PATIENTS = 10  #: within one source, only classes with at least this many patients are scored for each head


@singledispatch
def score(predictions: AnyTable) -> dict[str, Any]:
    """Return the scores of a table of predictions, ready for JSON: see `score_classes` and `score_findings`."""
    raise TypeError(f"cannot score {type(predictions).__name__}; expected PredictionTable or FindingTable")


@score.register
def score_classes(predictions: PredictionTable) -> dict[str, Any]:
    """Return `classification_scores` and further keys: ``patients``, ``intervals``, ``per_source`` and ``heads``.

    ``patients`` is the number of patients. ``intervals`` has the scores' 95 % intervals, under the same keys (see
    `intervals`). ``per_source`` has the scores for each source, with the intervals of accuracy and balanced accuracy.
    ``heads`` has the scores of each head (see `head_scores`), if the model averages several heads.
    """
    p = predictions
    whole = classification_scores(p.labels, p.probabilities, p.classes)
    per_source: dict[str, Any] = {}
    sources = sorted(set(p.sources))
    for source in sources:
        part = p.of_source(source)
        one = len(sources) == 1  # then its scores are those of all images
        own = dict(whole) if one else classification_scores(part.labels, part.probabilities, p.classes)
        own["patients"] = len(set(part.groups))
        own["intervals"] = accuracy_intervals(part.labels, part.probabilities, p.classes, part.groups)
        per_source[source] = own
    scores = {**whole, "patients": len(set(p.groups)), "intervals": intervals(p, whole), "per_source": per_source}
    if p.heads is not None and len(p.heads) > 1:
        scores["heads"] = head_scores(p)
    return scores


@score.register
def score_findings(predictions: FindingTable) -> dict[str, Any]:
    """Return `cvrnet.metrics.findings.finding_scores` and two further keys: ``per_source`` and ``head_auc``.

    ``per_source`` has the scores for each source; it is empty if there is only one named source, or none. ``head_auc``
    has each head's mean AUC over the findings; only the scores of a model that averages several heads have this key.
    """
    p = predictions
    scores = finding_scores(p.labels, p.probabilities, p.classes, p.groups)
    named = sorted({*p.sources} - {""})
    scores["per_source"] = {}
    for source in named if len(named) > 1 else ():
        part = p.of_source(source)
        scores["per_source"][source] = finding_scores(part.labels, part.probabilities, part.classes, part.groups)
    if p.heads is not None and len(p.heads) > 1:
        rankings = [finding_rankings(p.labels, head) for head in p.heads]
        scores["head_auc"] = {
            f"P{i}": float(found.mean()) if found.size else None for i, found in enumerate(rankings, start=1)
        }
    return scores


def head_scores(predictions: PredictionTable) -> list[dict[str, Any]]:
    """Return the balanced accuracy of each head and of their average, on all images and on the images of each source.

    The list has a dictionary for all images and one for each source. Within a source, only classes with at least
    `MIN_PATIENTS` patients count; a source without such a class is left out. The keys are ``source`` (None for all
    images); ``classes``, the names of the classes that count; ``images`` and ``patients``, the numbers of their images
    and patients; and ``scores``, which maps each head's name (P1 and so on) and ``average`` to a value and its 95 %
    interval.
    """
    p = predictions
    sources, patients = np.array(p.sources), np.array(p.groups)
    entries = []
    for source in [None, *sorted({*p.sources} - {""})]:
        inside = np.full(len(sources), True) if source is None else sources == source
        least = 1 if source is None else MIN_PATIENTS
        enough = [k for k in range(len(p.classes)) if len({*patients[inside & (p.labels == k)]}) >= least]
        rows = np.flatnonzero(inside & np.isin(p.labels, enough))
        if not len(rows) or p.heads is None:
            continue
        groups = patients[rows].tolist()
        found = balanced_accuracies(p.labels[rows], np.stack([*p.heads, p.guesses])[:, rows], groups)
        names = [*(f"P{i}" for i in range(1, len(found))), "average"]
        scores = {name: {"value": v, "interval": bounds} for name, (v, bounds) in zip(names, found, strict=True)}
        entry = {"source": source, "classes": [p.classes[k] for k in enough], "images": len(rows)}
        entries.append({**entry, "patients": len({*groups}), "scores": scores})
    return entries


def intervals(predictions: PredictionTable, scores: dict[str, Any]) -> dict[str, Any]:
    """Return 95 % intervals of all scores by bootstrap over patients.

    If a rate of a class is 0 or 1, all resamples give this value, so the bootstrap interval has no width. The exact
    binomial interval is used instead, with one trial for each patient. The key ``exact`` lists these rates by names
    such as ``NOR/sensitivity``.
    """
    p = predictions
    tree = bootstrap_intervals(p.labels, p.probabilities, p.classes, p.groups)
    guesses, groups = p.probabilities.argmax(1), np.array(p.groups)
    tree["exact"] = []
    for k, name in enumerate(p.classes):
        trials = (p.labels == k, p.labels != k, guesses == k, guesses != k)  # each rate is a share of these images
        for rate, among in zip(RATES, trials, strict=True):
            value = scores["per_class"][name][rate]
            if value in (0.0, 1.0):
                patients = len(set(groups[among].tolist()))
                tree["per_class"][name][rate] = exact_interval(value, patients)
                tree["exact"].append(f"{name}/{rate}")
    return tree


def head_rows(folds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of accuracies: a row for each head, then rows for the mean of the heads, the best head and the model.

    The model's output is the average of the heads' outputs. ``accuracy`` and ``std`` are the mean and the standard
    deviation over the folds; for a single fold, ``std`` is None. The best head has the highest mean over the folds. It
    is chosen on the images that it is scored on, so its score is too high.

    ``folds`` are the scores of each fold. If a fold has no ``head_accuracy``, because its model has no heads, there are
    no rows.

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
