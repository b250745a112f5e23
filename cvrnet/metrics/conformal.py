"""Conformal prediction sets: sets of classes that contain the true class with a chosen probability (the coverage)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.bootstrap import group_numbers
from cvrnet.metrics.inputs import check

MIN_PATIENTS = 10
COVERAGES = tuple(n / 100 for n in range(50, 100))  #: possible coverages; a checkpoint has a limit for each


@dataclass(frozen=True)
class PredictionSets:
    """The limits of prediction sets, one for each coverage in `COVERAGES`.

    The limit is the lowest probability that puts a class into the set; the limit 0 puts every class in.

    This is split conformal prediction with the score 1 - probability of the true class (Sadinle, Lei & Wasserman 2019,
    JASA 114:223). If new patients are like the validation patients, a coverage of 0.9 means that the sets of at least
    90 % of the new patients contain the true class. ``by_class`` guarantees the coverage for the patients of each class
    (Vovk 2012, ACML); its sets are usually larger.
    """

    patients: int  #: number of patients whose validation images were used
    least: list[float]  #: the limit for each coverage
    #: For each class with at least `MIN_PATIENTS` patients, the limits computed from the images of this class alone.
    by_class: dict[str, list[float]]

    def limits(self, classes: Sequence[str], coverage: float, by_class: bool = False) -> list[float]:
        """Return, for each class, the lowest probability that puts it into a set; arguments as in `members`."""
        i = coverage_index(coverage)
        if by_class:
            return [self.by_class[name][i] if name in self.by_class else 0.0 for name in classes]
        return [self.least[i]] * len(classes)

    def members(
        self, probabilities: ArrayLike, classes: Sequence[str], coverage: float, by_class: bool = False
    ) -> NDArray[np.bool_]:
        """Return whether each class is in the set of each image, (N, C); the most probable class always is.

        Args:
            probabilities: Shape (N, C).
            classes: Names of the columns.
            coverage: The target share of patients whose set contains the true class, one of `COVERAGES`.
            by_class: Guarantee the coverage for each class; a class with too few validation patients is then in every
                set.

        Raises:
            UserError: The coverage is not one of `COVERAGES`.
        """
        table = np.asarray(probabilities, np.float64)
        found: NDArray[np.bool_] = table >= np.array(self.limits(classes, coverage, by_class))
        found[np.arange(len(table)), table.argmax(1)] = True
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: Sequence[str]) -> PredictionSets:
        """Make `PredictionSets` from the values in an untrusted file; raise ValueError if the values are impossible."""
        try:
            sets = cls(**values)
            columns = [sets.least, *sets.by_class.values()]
            possible = (
                type(sets.patients) is int
                and sets.patients > 0
                and set(sets.by_class) <= {*classes}
                and all(len(column) == len(COVERAGES) for column in columns)
                and all(type(p) in (int, float) and 0 <= p <= 1 for column in columns for p in column)
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(
                "its prediction sets have an unexpected form; expected the keys patients, least and by_class"
            ) from error
        if not possible:
            raise ValueError(
                "its prediction sets have impossible values; expected 1 or more patients, known classes, and limits "
                "from 0 to 1"
            )
        return sets


def coverage_index(coverage: float) -> int:
    """Return the index of a coverage in `COVERAGES`; raise UserError if `COVERAGES` does not contain it."""
    if coverage not in COVERAGES:
        raise UserError(f"a coverage of {coverage:g}; expected one of 0.50, 0.51, ... 0.99")
    return COVERAGES.index(coverage)


def calibrate_sets(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str], groups: Sequence[Hashable]
) -> PredictionSets:
    """Calibrate prediction sets on validation images.

    Each patient counts once, even with several images: each image has the weight 1 / (number of images of its patient),
    as if one image of each patient were drawn (Dunn, Wasserman & Ramdas 2023, JASA 118:2491, pooling). With few
    patients, a high coverage is possible only with all classes in the set.

    Args:
        y_true: Class indices, shape (N,).
        probabilities: Shape (N, C).
        classes: Names of the columns.
        groups: The patient of each image.
    """
    labels, table = check(y_true, probabilities, classes)
    p = table[np.arange(len(labels)), labels]
    patients = group_numbers(groups, len(labels))
    by_class = {}
    for k, name in enumerate(classes):
        if len({*patients[labels == k]}) >= MIN_PATIENTS:
            by_class[name] = _least(p[labels == k], patients[labels == k])
    return PredictionSets(len({*patients}), _least(p, patients), by_class)


def _least(p: NDArray[np.float64], patients: NDArray[np.intp]) -> list[float]:
    """Return the limit for each coverage: the highest that enough patients reach; 0 if there are too few patients.

    An image reaches a limit if the probability of its true class is at least the limit. A patient counts as the share
    of the patient's images that reach the limit. For n patients, the sum of these shares must be at least (n + 1) *
    coverage.
    """
    _, inverse, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(-p)
    reached = np.cumsum((1 / counts[inverse])[order])  # patients whose true class has at least this probability
    least = []
    for coverage in COVERAGES:
        place = int(np.searchsorted(reached, (len(counts) + 1) * coverage - 1e-9))
        least.append(math.floor(p[order[place]] * 1e6) / 1e6 if place < len(p) else 0.0)  # rounded down, never too high
    return least


def average_sets(members: Sequence[PredictionSets | None]) -> PredictionSets | None:
    """Return the sets of an ensemble that averages its members' probabilities; each limit is the mean over the members.

    The coverage is guaranteed for each member; for the ensemble, it must be measured. The result is None if a member
    has no sets. A class is in the result's ``by_class`` only if it is in the ``by_class`` of every member.
    """
    known = [member for member in members if member is not None]
    if not known or len(known) < len(members):
        return None
    names = [name for name in known[0].by_class if all(name in member.by_class for member in known)]
    return PredictionSets(
        sum(member.patients for member in known),
        np.mean([member.least for member in known], axis=0).tolist(),
        {name: np.mean([member.by_class[name] for member in known], axis=0).tolist() for name in names},
    )
