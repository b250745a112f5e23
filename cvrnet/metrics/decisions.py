"""All that validation images teach about acting on a model's probabilities; it travels with the weights."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import ArrayLike

from cvrnet.metrics.abstention import Abstention, average_abstention, choose_abstention
from cvrnet.metrics.conformal import PredictionSets, average_sets, calibrate_sets
from cvrnet.metrics.operating_points import (
    RULES,
    OperatingPoint,
    average_operating_points,
    choose_operating_points,
)


@dataclass(frozen=True)
class Decisions:
    """Thresholds, prediction sets and abstention of one model, or of an ensemble; empty for a model without them."""

    operating_points: list[OperatingPoint] = field(default_factory=list)
    prediction_sets: PredictionSets | None = None
    abstention: Abstention | None = None

    def to_dict(self) -> dict[str, Any]:
        """The values as config.json holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, classes: Sequence[str]) -> Decisions:
        """What `to_dict` described, in a file from anywhere (None: nothing); raises ValueError if it is impossible."""
        values = {} if values is None else values
        if not isinstance(values, Mapping) or not {*values} <= {"operating_points", "prediction_sets", "abstention"}:
            raise ValueError("its decisions have another form")
        listed, sets, abstention = (values.get(key) for key in ("operating_points", "prediction_sets", "abstention"))
        if not isinstance(listed or [], list) or not all(isinstance(value, Mapping) for value in listed or ()):
            raise ValueError("its operating points are no list of objects")
        points = [OperatingPoint.from_dict(value) for value in listed or ()]
        keys = {(point.class_name, point.rule) for point in points}
        if len(keys) < len(points) or not keys <= {(name, rule) for name in classes for rule in RULES}:
            raise ValueError("its operating points have another class than the model's, or one rule of a class twice")
        return cls(
            points,
            None if sets is None else PredictionSets.from_dict(_mapping(sets), classes),
            None if abstention is None else Abstention.from_dict(_mapping(abstention)),
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("its decisions have another form")
    return value


def choose_decisions(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    groups: Sequence[Hashable],
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
) -> Decisions:
    """Learn from validation images: class indices (N,), probabilities (N, C), the patient of each image.

    See `choose_operating_points`, `calibrate_sets` and `choose_abstention`.
    """
    return Decisions(
        choose_operating_points(y_true, probabilities, classes, sensitivity, specificity),
        calibrate_sets(y_true, probabilities, classes, groups),
        choose_abstention(y_true, probabilities, classes),
    )


def average_decisions(members: Sequence[Decisions]) -> Decisions:
    """Those of an ensemble, whose probabilities are the mean of its members'.

    Members with equal decisions share those that ``cvrnet calibrate`` chose for the ensemble.
    """
    if members and all(member == members[0] for member in members):
        return members[0]
    return Decisions(
        average_operating_points([member.operating_points for member in members]),
        average_sets([member.prediction_sets for member in members]),
        average_abstention([member.abstention for member in members]),
    )
