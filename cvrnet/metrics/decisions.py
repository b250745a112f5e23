"""Thresholds, prediction sets and abstention, chosen on validation images and stored with the weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.metrics.abstention import Abstention, average_abstention, choose_abstention
from cvrnet.metrics.conformal import PredictionSets, average_sets, calibrate_sets
from cvrnet.metrics.operating_points import (
    RULES,
    OperatingPoint,
    average_operating_points,
    choose_operating_points,
    class_operating_points,
)
from cvrnet.metrics.recalibration import Recalibration


@dataclass(frozen=True)
class Decisions:
    """The thresholds, prediction sets, abstention and calibration of a model or an ensemble.

    A field that is not available is an empty list or None. If there is a calibration, the other decisions apply to the
    calibrated probabilities.
    """

    operating_points: list[OperatingPoint] = field(default_factory=list)  #: the thresholds of the classes or findings
    prediction_sets: PredictionSets | None = None
    abstention: Abstention | None = None
    calibration: Recalibration | None = None  #: from ``cvrnet calibrate``, for another hospital

    def to_dict(self) -> dict[str, Any]:
        """Return the values to write to config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, classes: Sequence[str]) -> Decisions:
        """Make a `Decisions` from the values of `to_dict` in an untrusted file.

        If ``values`` is None, the result has no decisions.

        Raises:
            ValueError: The values are impossible, or do not fit the classes.
        """
        values = {} if values is None else values
        if not isinstance(values, Mapping) or not {*values} <= {field.name for field in fields(cls)}:
            raise ValueError(
                "its decisions have an unexpected form; expected an object with operating_points, prediction_sets, "
                "abstention and calibration"
            )
        listed, sets, abstention, calibration = (values.get(field.name) for field in fields(cls))
        if not isinstance(listed or [], list) or not all(isinstance(value, Mapping) for value in listed or ()):
            raise ValueError("its operating points are not a list of objects")
        points = [OperatingPoint.from_dict(value) for value in listed or ()]
        keys = {(point.class_name, point.rule) for point in points}
        if len(keys) < len(points) or not keys <= {(name, rule) for name in classes for rule in RULES}:
            raise ValueError(
                "an operating point has a class that the model lacks, or two points have the same class and rule"
            )
        return cls(
            points,
            None if sets is None else PredictionSets.from_dict(_mapping(sets), classes),
            None if abstention is None else Abstention.from_dict(_mapping(abstention)),
            None if calibration is None else Recalibration.from_dict(_mapping(calibration), classes),
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(
            "its decisions have an unexpected form; expected prediction_sets, abstention and calibration as objects"
        )
    return value


def choose_decisions(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable],
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
) -> Decisions:
    """Choose the thresholds, prediction sets and abstention of a model on validation images.

    For the arguments, see `choose_operating_points` and `calibrate_sets`.
    """
    return Decisions(
        choose_operating_points(y_true, probabilities, classes, sensitivity, specificity),
        calibrate_sets(y_true, probabilities, classes, groups),
        choose_abstention(y_true, probabilities, classes),
    )


def choose_finding_decisions(
    truth: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    names: Sequence[str],
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
) -> Decisions:
    """Choose the thresholds of each finding on the validation images for which the finding is known.

    ``truth`` is 1, 0, or NaN where a finding is not known, (N, C); ``probabilities`` are (N, C). There are no
    prediction sets and no abstention, because these need images with exactly one class.
    """
    points: list[OperatingPoint] = []
    for name, values, p in zip(names, truth.T, probabilities.T, strict=True):
        known = ~np.isnan(values)
        targets = sensitivity.get(name), specificity.get(name)
        points += class_operating_points(values[known] == 1, p[known], name, *targets)
    return Decisions(points)


def average_decisions(members: Sequence[Decisions]) -> Decisions:
    """Return the decisions of an ensemble that averages its members' probabilities.

    Without calibration, the members' thresholds and limits are averaged. If ``cvrnet calibrate`` calibrated the
    ensemble as a whole, all members have the same decisions, and these are returned.

    Raises:
        ValueError: ``cvrnet calibrate`` calibrated members one by one, instead of the whole ensemble.
    """
    if any(member.calibration for member in members):
        if any(member != members[0] for member in members):
            raise ValueError("its folds were calibrated separately, so they cannot be averaged; choose one fold")
        return members[0]
    return Decisions(
        average_operating_points([member.operating_points for member in members]),
        average_sets([member.prediction_sets for member in members]),
        average_abstention([member.abstention for member in members]),
    )
