"""Abstention: a model passes its most uncertain images on to a human."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.inputs import check

SHARES = tuple(n / 100 for n in range(1, 100))  #: possible shares of images to pass on; each share has a limit


def _least_confidence(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - p.max(1)


def _margin(p: NDArray[np.float64]) -> NDArray[np.float64]:
    second, first = np.sort(p, axis=1)[:, -2:].T
    return 1 - (first - second)


def entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy over the last axis: 0 for a certain prediction, ``log(C)`` for C equally probable classes."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    found: NDArray[np.float64] = np.maximum(-(probabilities * logs).sum(-1), 0.0)
    return found


SCORES = {"least_confidence": _least_confidence, "margin": _margin, "entropy": entropy}
"""Name -> function of the probabilities, (N, C), that returns the uncertainty of each image, (N,).

Mutual information is not one of these scores: its size depends on the number of folds and heads, so a limit that was
chosen for one fold would not hold for the ensemble.
"""


@dataclass(frozen=True)
class Abstention:
    """An uncertainty score and its limits: images whose uncertainty is above a limit are passed on to a human.

    `choose_abstention` chooses the score on validation images, and computes the limits.
    """

    score: str  #: a key of `SCORES`
    images: int  #: number of validation images
    limits: list[float]  #: for each of `SHARES`: the score that about this share of the validation images exceeds

    def passed_on(self, probabilities: ArrayLike, share: float) -> NDArray[np.bool_]:
        """Return a mask (N,) of the images to pass on: those whose uncertainty is above the limit for ``share``.

        Of images like the validation images, about the fraction ``share`` is passed on.

        Raises:
            UserError: The share is not one of `SHARES`.
        """
        if share not in SHARES:
            raise UserError(f"a share of {share:g} to pass on; expected one of 0.01, 0.02, ... 0.99")
        table = np.asarray(probabilities, np.float64)
        return np.asarray(SCORES[self.score](table) > self.limits[SHARES.index(share)])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Abstention:
        """Make an abstention from the values in an untrusted file; raise ValueError if the values are impossible."""
        try:
            found = cls(**values)
            possible = (
                found.score in SCORES
                and type(found.images) is int
                and found.images > 0
                and len(found.limits) == len(SHARES)
                and all(type(limit) in (int, float) and 0 <= limit < 100 for limit in found.limits)
            )
        except TypeError as error:
            raise ValueError(
                "its abstention has an unexpected form; expected the keys score, images and limits"
            ) from error
        if not possible:
            raise ValueError(
                f"its abstention has impossible values; expected a score of {', '.join(SCORES)}, 1 or more images, and "
                f"{len(SHARES)} limits of the uncertainty, from 0 to below 100"
            )
        return found


def choose_abstention(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> Abstention:
    """Choose the uncertainty score with the smallest area under its risk-coverage curve, and compute its limits.

    Labels, (N,), and probabilities, (N, C), are those of the validation images.
    """
    labels, table = check(y_true, probabilities, classes)
    areas = {name: risk_coverage(labels, table, name)["area"] for name in SCORES}
    best = min(areas, key=lambda name: areas[name])
    limits = np.quantile(SCORES[best](table), 1 - np.array(SHARES), method="higher")
    return Abstention(best, len(labels), [round(float(limit), 6) for limit in limits])


def risk_coverage(y_true: ArrayLike, probabilities: ArrayLike, score: str) -> dict[str, Any]:
    """Return the risk-coverage curve: the share of wrong predictions (risk) among the k most certain images.

    The curve has a point for each k from 1 to N (El-Yaniv & Wiener 2010, JMLR 11:1605). ``score``, a key of `SCORES`,
    names the uncertainty score by which the images are sorted.

    Returns:
        ``coverage`` (k / N) and ``risk``, of shape (N,), and ``area``, the mean of the risk. The points of images
        with equal uncertainty have the same risk: that of all images that are at least as certain as these.

    >>> curve = risk_coverage([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], "entropy")
    >>> curve["coverage"].round(2).tolist(), curve["risk"].round(2).tolist()
    ([0.33, 0.67, 1.0], [0.0, 0.0, 0.33])
    """
    labels, table = np.asarray(y_true), np.asarray(probabilities, np.float64)
    uncertain = SCORES[score](table)
    order = np.argsort(uncertain, kind="stable")
    wrong = (table.argmax(1) != labels)[order]
    last = np.searchsorted(uncertain[order], uncertain[order], side="right")  # number of images at least as certain
    risk = np.cumsum(wrong)[last - 1] / last
    return {"coverage": np.arange(1, len(labels) + 1) / len(labels), "risk": risk, "area": float(risk.mean())}


def average_abstention(members: Sequence[Abstention | None]) -> Abstention | None:
    """Return the abstention of an ensemble: the score that most members chose, and the mean of these members' limits.

    Return None if a member has no abstention.
    """
    known = [member for member in members if member is not None]
    if not known or len(known) < len(members):
        return None
    names = [member.score for member in known]
    score = max(SCORES, key=names.count)
    mine = [member for member in known if member.score == score]
    limits = np.mean([member.limits for member in mine], axis=0).tolist()
    return Abstention(score, sum(member.images for member in mine), limits)
