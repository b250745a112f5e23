"""Test whether models differ on one set of images: paired tests of AUC and accuracy, with patients as clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cvrnet.errors import UserError
from cvrnet.metrics.bootstrap import group_numbers

Z = float(stats.norm.ppf(0.975))  # quantile for a two-sided 95 % interval


def auc_covariance(
    truth: ArrayLike, scores: ArrayLike, groups: Sequence[Hashable] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUCs of K scores for the same images, and their covariance.

    The method is that of DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), with the midranks of Sun & Xu 2014
    (IEEE Signal Process Lett 21:1389). Each image has a component: for a positive image, the share of the negative
    images with lower scores; for a negative image, the share of the positive images with higher scores (ties count
    half). Images of one patient are not independent observations, so the components are summed by patient (Obuchowski
    1997, Biometrics 53:567). With one image for each patient this is DeLong's estimator.

    Args:
        truth: Whether each image is positive, shape (N,).
        scores: Shape (K, N); higher means more probably positive.
        groups: The patient of each image. An image with None or "" counts as a separate patient; by default, every
            image does.

    Returns:
        The AUCs, (K,), and their covariance, (K, K).

    Raises:
        UserError: Fewer than two patients have positive images, or fewer than two have negative images.
    """
    truth, table = np.asarray(truth, bool), np.atleast_2d(np.asarray(scores, np.float64))
    members = group_numbers(groups, len(truth))
    m, n = int(truth.sum()), int((~truth).sum())
    with_positives, with_negatives = len({*members[truth]}), len({*members[~truth]})
    if min(with_positives, with_negatives) < 2:
        raise UserError(
            f"patients with positive images: {with_positives}, with negative images: {with_negatives}; expected at "
            "least 2 of each"
        )
    above, below = _components(truth, table)
    auc = above.mean(1)
    positive, negative = (np.zeros((len(table), int(members.max()) + 1)) for _ in range(2))
    for total, parts, rows in ((positive, above, members[truth]), (negative, below, members[~truth])):
        np.add.at(total.T, rows, (parts - auc[:, None]).T)
    patients = positive.shape[1]
    within = positive @ negative.T * patients / (patients - 1)
    covariance = (
        positive @ positive.T * with_positives / (with_positives - 1) / m**2
        + negative @ negative.T * with_negatives / (with_negatives - 1) / n**2
        + (within + within.T) / (m * n)
    )
    return auc, covariance


def compare_auc(
    truth: ArrayLike, one: ArrayLike, other: ArrayLike, groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """Test the difference of two AUCs on the same images (DeLong's test).

    ``one`` and ``other`` are two scores, (N,); the other arguments are those of `auc_covariance`.

    Returns:
        The AUCs ``one`` and ``other``; their ``difference`` (one minus other), with its 95 % interval from ``low`` to
        ``high``; and the two-sided ``p``.
    """
    (a, b), covariance = auc_covariance(truth, np.stack([np.asarray(one), np.asarray(other)]), groups)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return _normal(float(a), float(b), variance)


def compare_mean_auc(
    truth: ArrayLike, one: ArrayLike, other: ArrayLike, groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """Test the difference of two models' mean AUC over classes or findings, on the same images.

    The AUC of a class compares images that have the class with images that are known not to have it. The variance of
    the mean difference is computed from the patients' components of `auc_covariance`, averaged over the classes that
    have an AUC. With one image for each patient and two classes, this variance is DeLong's.

    Args:
        truth: 1 or 0 for each image and class, NaN if not known, (N, C).
        one: The probabilities of a model, (N, C).
        other: The probabilities of another model, (N, C), or of several models, (K, N, C), whose AUCs are averaged.
        groups: As in `auc_covariance`.

    Returns:
        The values that `compare_auc` returns.

    Raises:
        UserError: No class has an AUC; or a class with an AUC is present in only one patient, or absent in only
            one patient.
    """
    answers, mine = np.asarray(truth, float), np.asarray(one, float)
    tables = np.concatenate([mine[None], np.asarray(other, float).reshape(-1, *mine.shape)])
    members = group_numbers(groups, len(answers))
    aucs, influence = [], np.zeros(int(members.max()) + 1)
    classes = [k for k, column in enumerate(answers.T) if (column == 1).any() and (column == 0).any()]
    if not classes:
        raise UserError("no class has an AUC on these images; expected a class that some images have and others do not")
    for k in classes:
        known = ~np.isnan(answers[:, k])
        present, of = answers[known, k] == 1, members[known]
        above, below = _components(present, tables[:, known, k])
        auc = above.mean(1)
        aucs.append(auc)
        for parts, rows, verb in ((above, present, "has"), (below, ~present, "lacks")):
            patients = len({*of[rows]})
            if patients < 2:
                raise UserError(f"only {patients} patient {verb} class {k} (counted from 0); expected at least 2")
            deviation = (parts - auc[:, None]) / rows.sum() * np.sqrt(patients / (patients - 1))
            np.add.at(influence, of[rows], (deviation[0] - deviation[1:].mean(0)) / len(classes))
    a, *others = np.mean(aucs, axis=0)
    return _normal(float(a), float(np.mean(others)), float((influence**2).sum()))


def compare_accuracy(
    right: ArrayLike, right_of_other: ArrayLike, groups: Sequence[Hashable] | None = None
) -> dict[str, float]:
    """Test whether two models are right equally often on the same images (McNemar's test).

    With one image for each patient, the exact test is used: among the images that only one model gets right, each model
    should be right with probability 1/2 (McNemar 1947). If patients have several images, the differences between the
    models (1, 0 or -1 for each image) are summed by patient, because only the patients' sums are independent
    (Obuchowski 1998, Stat Med 17:1495). Obuchowski's test does not assume the same correlation within all patients. In
    both cases, the interval is computed from the patients' sums.

    Args:
        right: Whether the model is right on each image, shape (N,).
        right_of_other: Whether the other model is right on each image, shape (N,).
        groups: As in `auc_covariance`.

    Returns:
        The values that `compare_auc` returns, with accuracies instead of AUCs.
    """
    a, b = np.asarray(right, float), np.asarray(right_of_other, float)
    members = group_numbers(groups, len(a))
    sums = np.bincount(members, a - b)
    patients, difference = len(sums), (a - b).mean()
    # The interval needs deviations from the observed difference; the test below needs deviations from zero.
    residuals = sums - np.bincount(members) * difference
    spread = float((residuals**2).sum() * patients / max(1, patients - 1) / len(a) ** 2)
    found = _normal(float(a.mean()), float(b.mean()), spread)
    if patients == len(a):
        only = int((a > b).sum()), int((b > a).sum())
        p = float(stats.binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    else:
        null = float(np.sqrt((sums**2).sum())) / len(a)
        p = float(2 * stats.norm.sf(abs(difference) / null)) if null else 1.0
    return {**found, "p": p}


def _components(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return the share of negatives ranked below each positive image, and of positives above each negative image.

    Ties count half; shapes (K, positive images) and (K, negative images).
    """
    ranks = stats.rankdata(scores, axis=1)
    above = (ranks[:, truth] - stats.rankdata(scores[:, truth], axis=1)) / (~truth).sum()
    below = 1 - (ranks[:, ~truth] - stats.rankdata(scores[:, ~truth], axis=1)) / truth.sum()
    return above, below


def _normal(one: float, other: float, variance: float) -> dict[str, float]:
    """Return a difference of two estimates with its interval and test, from the normal distribution."""
    difference, error = one - other, float(np.sqrt(max(variance, 0.0)))
    if error < 1e-12:  # except for rounding, the variance is 0
        p = 1.0 if abs(difference) < 1e-12 else 0.0
    else:
        p = float(2 * stats.norm.sf(abs(difference) / error))
    half = Z * error
    return {
        "one": one, "other": other, "difference": difference,
        "low": difference - half, "high": difference + half, "p": p,
    }  # fmt: skip
