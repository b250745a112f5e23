"""Compare a model's predictions and decisions before and after a calibration, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.metrics import bootstrap_intervals, classification_scores
from cvrnet.metrics.bootstrap import exact_interval, mean_interval
from cvrnet.metrics.decisions import Decisions, choose_decisions
from cvrnet.metrics.novelty import distance_quantiles, is_marked, unlike
from cvrnet.metrics.operating_points import DEFAULT_SENSITIVITY
from cvrnet.metrics.recalibration import fit_recalibration
from cvrnet.metrics.scores import sample_log_loss

COVERAGE = 0.9  # coverage of the prediction sets in the table
_SCORES = ("log_loss", "expected_calibration_error", "balanced_accuracy")
Row = dict[str, Any]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """A model's probabilities of C classes for N images, and what it decides. NaN: the model has no such decision."""

    probabilities: Table  #: (N, C)
    positive: Mapping[tuple[str, str], Table]  #: (class, operating point) -> whether each image is positive, (N,)
    in_set: Table  #: whether each class is in the prediction set, (N, C)
    unlike: Table  #: how unusual each image is: the result of `cvrnet.metrics.novelty.unlike`, (N,)


@dataclass(frozen=True)
class Local:
    """N labelled images of the hospital to which a model is calibrated, and the model's predictions for them."""

    classes: list[str]  #: names of the C classes
    labels: NDArray[np.int64]  #: class index of each image, (N,)
    groups: list[str]  #: the patient of each image
    probabilities: Table  #: probabilities before the calibration, (N, C)
    #: Distance of each image from the training images of each fold, (N, folds); without a novelty head, (N, 0).
    distances: Table

    def at(self, rows: NDArray[np.intp]) -> Local:
        """Return a `Local` that has only the images with these indices."""
        groups = [self.groups[i] for i in rows]
        return Local(self.classes, self.labels[rows], groups, self.probabilities[rows], self.distances[rows])


def judge(
    decisions: Decisions, quantiles: Sequence[Table], probabilities: Table, distances: Table, classes: Sequence[str]
) -> Judged:
    """Apply the rules in ``decisions`` to N images; return the decisions, and how unusual each image is.

    ``probabilities`` are (N, C). ``distances`` (N, folds) are the images' distances from the training images of each
    fold. ``quantiles`` has an array for each fold: the quantiles with which `unlike` compares this fold's distances.
    """
    positive = {
        (point.class_name, point.name): np.asarray(
            probabilities[:, classes.index(point.class_name)] >= point.threshold, np.float64
        )
        for point in decisions.operating_points
    }
    sets = decisions.prediction_sets
    in_set = np.full(probabilities.shape, np.nan)
    if sets is not None:
        in_set[:] = sets.members(probabilities, classes, COVERAGE)
    return Judged(probabilities, positive, in_set, unlike(distances, quantiles))


def fit_quantiles(distances: Table) -> list[Table]:
    """Return, for each fold, the quantiles of its column of ``distances`` (N, folds)."""
    return [distance_quantiles(of_fold) for of_fold in distances.T]


def choose(local: Local, probabilities: Table, source: Decisions) -> Decisions:
    """Return new rules (thresholds, prediction sets and limits of uncertainty), chosen on the calibrated probabilities.

    The new thresholds have the same target sensitivities and specificities as the earlier thresholds, which are in
    ``source``. A class without an earlier target sensitivity gets `DEFAULT_SENSITIVITY`.
    """
    targets: dict[str, dict[str, float]] = {"sensitivity": {}, "specificity": {}}
    for point in source.operating_points:
        if point.target is not None:
            targets[point.rule][point.class_name] = point.target
    sensitivity = {name: targets["sensitivity"].get(name, DEFAULT_SENSITIVITY) for name in local.classes}
    arguments = (local.labels, probabilities, local.classes, local.groups)
    return choose_decisions(*arguments, sensitivity, targets["specificity"])


def cross_validated(local: Local, folds: Sequence[int], source: Decisions) -> Judged:
    """Return the results after calibration: each fold's images get a calibration that is fitted to the other folds.

    ``folds`` has the fold of each image in ``local``; these folds are not the folds of the model. ``source`` has the
    thresholds and other rules from before the calibration.
    """
    shape = (len(local.labels), len(local.classes))
    table, in_set, away = np.zeros(shape), np.full(shape, np.nan), np.full(shape[0], np.nan)
    positive: dict[tuple[str, str], Table] = {}
    for fold in sorted(set(folds)):
        inside = np.array(folds) == fold
        others = local.at(np.flatnonzero(~inside))
        fitted = fit_recalibration(others.labels, others.probabilities, others.groups)
        decisions = choose(others, fitted(others.probabilities), source)
        mine = local.at(np.flatnonzero(inside))
        quantiles = fit_quantiles(others.distances)
        judged = judge(decisions, quantiles, fitted(mine.probabilities), mine.distances, local.classes)
        table[inside], in_set[inside], away[inside] = judged.probabilities, judged.in_set, judged.unlike
        for key, found in judged.positive.items():
            positive.setdefault(key, np.full(shape[0], np.nan))[inside] = found
    return Judged(table, positive, in_set, away)


def before_after_rows(local: Local, before: Judged, after: Judged) -> list[Row]:
    """Return the rows of tables/before_after.csv: scores before and after, and changes, with 95 % intervals.

    The intervals are from a bootstrap over patients; but if a sensitivity, specificity or other share is 0 or 1, its
    interval is the exact binomial interval. The intervals do not include the uncertainty of the calibration itself:
    other images would have given another calibration.
    """
    change = sample_log_loss(local.labels, after.probabilities) - sample_log_loss(local.labels, before.probabilities)
    rows = []
    both = [_scores(local, judged.probabilities) for judged in (before, after)]
    for name in _SCORES:
        values = change if name == "log_loss" else None
        rows.append(
            _row(name, "", "", len(local.labels), *(found[name] for found in both), _change(values, local.groups))
        )
    for key in dict.fromkeys([*before.positive, *after.positive]):
        rows += _rates(local, key, before, after)
    covered = [judged.in_set[np.arange(len(local.labels)), local.labels] for judged in (before, after)]
    every = np.full(len(local.labels), True)
    rows.append(_compared("coverage", "", f"coverage={COVERAGE:g}", local, every, *covered))
    sizes = [judged.in_set.sum(1) for judged in (before, after)]
    rows.append(_compared("set_size", "", f"coverage={COVERAGE:g}", local, every, *sizes))
    if local.distances.shape[1]:
        marked = [is_marked(judged.unlike).astype(float) for judged in (before, after)]
        rows.append(_compared("marked", "", "unusual", local, every, *marked))
    return rows


def verdict(rows: Sequence[Row]) -> str:
    """Return a sentence on whether the probabilities became better, judged by the log loss in `before_after_rows`."""
    row = rows[0]
    low, high = row["change_low"], row["change_high"]
    if low is None or low <= 0 <= high:
        return f"too few images ({row['images']:,}) to show whether the calibration makes the probabilities better"
    if high < 0:
        return "the calibration makes the probabilities better: the log loss on new patients falls (95 % interval)"
    return "the calibration makes the probabilities worse (the log loss on new patients rises): use the original model"


def _scores(local: Local, probabilities: Table) -> dict[str, tuple[float | None, list[float] | None]]:
    scores = classification_scores(local.labels, probabilities, local.classes)
    intervals = bootstrap_intervals(local.labels, probabilities, local.classes, local.groups)
    return {name: (scores[name], intervals[name]) for name in _SCORES}


def _rates(local: Local, key: tuple[str, str], before: Judged, after: Judged) -> Iterator[Row]:
    name, point = key
    unknown = np.full(len(local.labels), np.nan)
    hits = [judged.positive.get(key, unknown) for judged in (before, after)]
    truth = local.labels == local.classes.index(name)
    yield _compared("sensitivity", name, point, local, truth, *hits)
    yield _compared("specificity", name, point, local, ~truth, *(1 - found for found in hits))


def _compared(score: str, name: str, point: str, local: Local, chosen: NDArray[np.bool_], *values: Table) -> Row:
    """Return the row of a score that is a mean over the chosen images; ``values`` are two arrays, before and after."""
    groups = [group for group, keep in zip(local.groups, chosen, strict=True) if keep]
    before, after = (found[chosen] for found in values)
    shares = [_mean(found, groups, share=score != "set_size") for found in (before, after)]
    return _row(score, name, point, int(chosen.sum()), *shares, _change(after - before, groups))


def _mean(values: Table, groups: Sequence[Hashable], share: bool) -> tuple[float | None, list[float] | None]:
    value, bounds = mean_interval(values, groups)
    if share and value is not None and value in (0.0, 1.0):
        bounds = exact_interval(value, len(set(groups)))
    return value, bounds


def _change(values: Table | None, groups: Sequence[Hashable]) -> tuple[float | None, list[float] | None]:
    return (None, None) if values is None else mean_interval(values, groups)


def _row(score: str, name: str, point: str, images: int, *found: tuple[float | None, list[float] | None]) -> Row:
    row: Row = {"score": score, "class": name, "decision": point, "images": images}
    for when, (value, bounds) in zip(("before", "after", "change"), found, strict=True):
        low, high = bounds or (None, None)
        row |= {when: value, f"{when}_low": low, f"{when}_high": high}
    return row
