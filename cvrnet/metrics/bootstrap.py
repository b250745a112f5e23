"""95 % intervals of every score, by resampling patients (cluster bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.calibration import ECE_BINS, bin_numbers, squared_errors
from cvrnet.metrics.inputs import check
from cvrnet.metrics.scores import confusion_scores, ratio, sample_log_loss

CHUNK = 1_000_000  # weights in memory at once (8 MB, and a few copies)
MIN_DEFINED = 0.9  # a score must be defined in at least this share of the resamples
TAIL = 0.025  # share of the resamples beyond each end of a 95 % interval


def bootstrap_intervals(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return 95 % percentile intervals ``[low, high]`` of the scores, with the keys of `classification_scores`.

    Patients are drawn with replacement, each with all of their images (cluster bootstrap). Images of one patient are
    similar, so resampling single images would give intervals that are too narrow. If a score is undefined in more than
    a tenth of the resamples (as for a class with fewer than about three patients), its interval is None. Otherwise, the
    interval is computed from the resamples in which the score is defined. If a score is the same in all resamples, such
    as the sensitivity of a class without errors, its interval has no width; then use
    ``cvrnet.metrics.bootstrap.exact_interval``. If there is only one patient, all intervals are None.

    Args:
        y_true: Class indices, shape (N,).
        probabilities: Shape (N, C).
        classes: Names of the columns.
        groups: The patient of each image. An image with None or "" counts as a separate patient; by default, every
            image does.
        n: Number of resamples.
        seed: Seed of the random draws; equal seeds give equal intervals.

    >>> intervals = bootstrap_intervals([0, 1] * 50, [[0.8, 0.2]] * 50 + [[0.1, 0.9]] * 50, ["NOR", "CVP"])
    >>> intervals["accuracy"], intervals["bootstrap"]
    ([0.41, 0.61], {'resamples': 1000, 'groups': 100, 'seed': 0, 'level': 0.95})
    """
    labels, table = check(y_true, probabilities, classes)
    if n < 1:
        raise UserError(f"{n} resamples: expected at least 1")
    members = group_numbers(groups, len(labels))
    intervals = _intervals(lambda weights: weighted_scores(labels, table, classes, weights), members, n, seed)
    return {**intervals, "bootstrap": {"resamples": n, "groups": int(members.max()) + 1, "seed": seed, "level": 0.95}}


def accuracy_intervals(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], groups: Sequence[Hashable]
) -> dict[str, list[float] | None]:
    """Return the same intervals of ``accuracy`` and ``balanced_accuracy`` as `bootstrap_intervals`, in less time."""
    labels, table = check(y_true, probabilities, classes)

    def score(weights: NDArray[np.float64]) -> dict[str, Any]:
        scores = weighted_confusion(labels, table, classes, weights)
        return {key: scores[key] for key in ("accuracy", "balanced_accuracy")}

    return _intervals(score, group_numbers(groups, len(labels)), n=1000, seed=0)


def mean_interval(
    values: ArrayLike, groups: Sequence[Hashable] | None = None, n: int = 1000, seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """Return the mean of one value per image, and its 95 % interval by resampling patients (`bootstrap_intervals`).

    ``values`` has shape (N,). Images whose value is NaN are left out. If all values are NaN, the mean and its interval
    are None. The other arguments are those of `bootstrap_intervals`.
    """
    table = np.asarray(values, np.float64)
    there = ~np.isnan(table)
    if not there.any():
        return None, None
    table = table[there]
    kept = None if groups is None else [group for group, keep in zip(groups, there, strict=True) if keep]
    members = group_numbers(kept, len(table))
    return float(table.mean()), _intervals(lambda weights: weights @ table / weights.sum(1), members, n, seed)


def share_interval(
    hits: ArrayLike, groups: Sequence[Hashable] | None = None
) -> tuple[float | None, list[float] | None]:
    """Return the share of images that are hits, and its 95 % interval by resampling patients (`bootstrap_intervals`).

    If the share is 0 or 1, the interval comes from `exact_interval` instead. ``hits`` has shape (N,): 1 for a hit, 0
    for no hit, or NaN for an image to leave out.
    """
    table = np.asarray(hits, np.float64)
    share, bounds = mean_interval(table, groups)
    if share is not None and share in (0.0, 1.0):
        numbers = group_numbers(groups, len(table))[~np.isnan(table)]
        bounds = exact_interval(share, len({*numbers.tolist()}))
    return share, bounds


def auc_interval(
    truth: ArrayLike, scores: ArrayLike, groups: Sequence[Hashable] | None = None, n: int = 1000, seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """Return the AUC of a score (N,), and its 95 % interval by resampling patients as in `bootstrap_intervals`.

    ``truth`` says whether each sample is positive. If all samples are positive, or all are negative, the AUC and its
    interval are None.

    >>> auc_interval([True, False, True, False], [0.9, 0.1, 0.4, 0.4])[0]
    0.875
    """
    positive, table = np.asarray(truth, bool), np.asarray(scores, np.float64)
    members = group_numbers(groups, len(table))
    auc = ranking(positive, table, np.ones((1, len(table))))[0][0]
    if np.isnan(auc):
        return None, None
    return float(auc), _intervals(lambda weights: ranking(positive, table, weights)[0], members, n, seed)


def balanced_accuracies(
    y_true: ArrayLike, guesses: ArrayLike, groups: Sequence[Hashable] | None = None, n: int = 1000, seed: int = 0
) -> list[tuple[float, list[float] | None]]:
    """Return the balanced accuracy of each of M models on the same images, paired with its 95 % interval.

    ``y_true`` are class indices of shape (N,), and ``guesses`` are the predicted class indices, of shape (M, N). The
    balanced accuracy is the mean recall of the classes that occur in ``y_true``. Intervals are as in
    `bootstrap_intervals`. If all predictions of a model are right, or all are wrong, the model's interval comes from
    `exact_interval`.
    """
    labels = np.asarray(y_true)
    hits = np.asarray(guesses) == labels
    members = [labels == label for label in np.unique(labels)]
    numbers = group_numbers(groups, len(labels))
    n_groups = int(numbers.max()) + 1
    chunks = []
    for weights in resample(numbers, n_groups, n, seed):
        recalls = [ratio(weights[:, m] @ hits[:, m].T, weights[:, m].sum(1, keepdims=True)) for m in members]
        defined = ~np.isnan(recalls)
        chunks.append(ratio(np.where(defined, recalls, 0).sum(0), defined.sum(0)))
    table = np.concatenate(chunks)  # (n, M)
    scores = []
    for value, resamples in zip(np.mean([hits[:, m].mean(1) for m in members], axis=0), table.T, strict=True):
        alike = value in (0.0, 1.0)
        bounds = exact_interval(value, n_groups) if alike else as_intervals([resamples], few=n_groups < 2)
        scores.append((float(value), bounds))
    return scores


def exact_interval(share: float, n: int) -> list[float]:
    """Return the 95 % interval of a share that is 0 or 1 in n independent trials (Clopper and Pearson 1934).

    >>> [round(end, 2) for end in exact_interval(1.0, 30)]
    [0.88, 1.0]
    """
    reach = TAIL ** (1 / n)
    return [reach, 1.0] if share else [0.0, 1 - reach]


def weighted_scores(
    labels: NDArray[np.int64], table: NDArray[np.float64], classes: Sequence[str], weights: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the weighted scores for B sets of sample weights, as a nested dictionary of arrays of shape (B,).

    ``weights`` has shape (B, N). Undefined scores are NaN. If all weights are one, the scores equal those of
    `classification_scores`. For other weights, they equal scikit-learn's scores with these weights as
    ``sample_weight``.
    """
    predicted, confidence = table.argmax(1), table.max(1)
    scores = weighted_confusion(labels, table, classes, weights)
    total = weights.sum(1)
    bins = np.eye(ECE_BINS)[bin_numbers(confidence, ECE_BINS)]
    gaps = weights @ (bins * ((predicted == labels) - confidence)[:, None])
    scores["log_loss"] = weights @ sample_log_loss(labels, table) / total
    scores["brier_score"] = weights @ squared_errors(labels, table) / total
    scores["expected_calibration_error"] = np.abs(gaps).sum(1) / total
    for k, name in enumerate(classes):
        roc_auc, average_precision = ranking(labels == k, table[:, k], weights)
        scores["per_class"][name] |= {"roc_auc": roc_auc, "average_precision": average_precision}
    for key in ("roc_auc", "average_precision"):
        values = np.stack([scores["per_class"][name][key] for name in classes])
        defined = ~np.isnan(values)
        scores["macro"][key] = ratio(np.where(defined, values, 0).sum(0), defined.sum(0))
    return scores


def weighted_confusion(
    labels: NDArray[np.int64], table: NDArray[np.float64], classes: Sequence[str], weights: NDArray[np.float64]
) -> dict[str, Any]:
    """Return those scores of `weighted_scores` that depend only on the predicted classes."""
    truths, guesses = np.eye(len(classes))[labels], np.eye(len(classes))[table.argmax(1)]
    return confusion_scores(weights @ (truths * guesses), weights @ truths, weights @ guesses, classes)


def ranking(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return AUC and average precision for B sets of weights (B, N): two arrays (B,).

    The AUC is the share of pairs (a positive and a negative image) in which the positive image has the higher score;
    ties count half.
    """
    order = np.argsort(-score)
    # Samples with equal scores are summed first: their order is arbitrary and must have no effect.
    starts = np.flatnonzero(np.diff(-score[order], prepend=-np.inf))
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    every = np.add.reduceat(weights[:, order], starts, axis=1)
    negative = every - positive
    found, drawn = positive.cumsum(1), every.cumsum(1)
    n_positive, n_negative = found[:, -1], drawn[:, -1] - found[:, -1]
    pairs = (negative * (found - positive / 2)).sum(1)
    precision = np.nan_to_num(ratio(found, drawn))
    return ratio(pairs, n_positive * n_negative), ratio((positive * precision).sum(1), n_positive)


def resample(members: NDArray[np.intp], n_groups: int, n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each image is drawn in each resample, in chunks of shape (b, N), to limit the memory."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(members))
    for first in range(0, n, step):
        draws = rng.integers(n_groups, size=(min(step, n - first), n_groups))
        draws += n_groups * np.arange(len(draws))[:, None]  # so that one bincount counts all resamples
        counts = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        yield counts[:, members].astype(np.float64)


def group_numbers(groups: Sequence[Hashable] | None, n_samples: int) -> NDArray[np.intp]:
    """Return the index of each sample's group, (N,); groups are numbered from 0 in the order of their first samples.

    A sample whose group is None or "" is a group of its own. Without ``groups``, every sample is.
    """
    if groups is None:
        return np.arange(n_samples)
    if len(groups) != n_samples:
        raise UserError(f"{len(groups)} groups for {n_samples} samples: expected one group for each sample")
    numbers: dict[Hashable, int] = {}
    alone = ((index,) for index in range(n_samples))  # a key that no patient id equals
    keys = [group if group not in ("", None) else key for group, key in zip(groups, alone, strict=True)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _intervals(score: Callable[[NDArray[np.float64]], Any], members: NDArray[np.intp], n: int, seed: int) -> Any:
    """Return 95 % intervals of the scores that the function ``score`` computes from the weights of `resample`."""
    n_groups = int(members.max()) + 1
    return as_intervals([score(weights) for weights in resample(members, n_groups, n, seed)], few=n_groups < 2)


def as_intervals(parts: Sequence[Any], few: bool) -> Any:
    """Return 95 % intervals of scores from their values in all resamples.

    Each of the `parts` has the values of one chunk of `resample`, or of all resamples: an array with one value for each
    resample, or a nested dictionary of such arrays. An interval is None if there are too few patients (``few``), or if
    the share of the values that are defined is below `MIN_DEFINED`.
    """
    scores = [np.concatenate(values) for values in zip(*map(_leaves, parts), strict=True)]
    found: list[list[float] | None] = [None] * len(scores)
    by_count: dict[int, dict[int, NDArray[np.float64]]] = {}
    for place, values in enumerate(scores):
        defined = values[~np.isnan(values)]
        if not few and len(defined) >= MIN_DEFINED * len(values):
            by_count.setdefault(len(defined), {})[place] = defined
    for rows in by_count.values():  # one call for many scores takes a fifth of the time of a call for each
        bounds = np.percentile(np.stack([*rows.values()]), [100 * TAIL, 100 * (1 - TAIL)], axis=1)
        for place, interval in zip(rows, bounds.T.tolist(), strict=True):
            found[place] = interval
    return _with_leaves(parts[0], iter(found))


def _leaves(tree: Any) -> list[Any]:
    """Return the values of a nested dictionary, in its order."""
    return [leaf for value in tree.values() for leaf in _leaves(value)] if isinstance(tree, Mapping) else [tree]


def _with_leaves(tree: Any, leaves: Iterator[Any]) -> Any:
    """Return a nested dictionary like ``tree``, with the values of ``leaves`` instead."""
    if isinstance(tree, Mapping):
        return {key: _with_leaves(value, leaves) for key, value in tree.items()}
    return next(leaves)
