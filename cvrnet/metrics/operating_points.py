"""Operating points: for each class, the lowest probability at which an image counts as positive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.metrics.inputs import check
from cvrnet.metrics.roc import ABOVE_ALL

RULES = ("sensitivity", "specificity", "youden")
DEFAULT_SENSITIVITY = 0.9
FEW_IMAGES = 10  #: a threshold chosen on fewer images of the class has a warning


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold of one class against all others, with counts of the validation images that were used to choose it.

    An image is positive if the probability of the class is at least the threshold.
    """

    class_name: str
    rule: str  #: ``sensitivity`` or ``specificity`` to reach a target; ``youden`` for the largest sum of both
    target: float | None  #: the sensitivity or specificity to reach; None for ``youden``
    threshold: float
    true_positives: int  #: images of the class whose probability reaches the threshold
    positives: int  #: all images of the class
    true_negatives: int  #: images of the other classes whose probability is below the threshold
    negatives: int  #: all images of the other classes

    @property
    def name(self) -> str:
        """The rule with its target, such as ``sensitivity=0.9``; ``youden`` has no target."""
        return self.rule if self.target is None else f"{self.rule}={self.target:g}"

    @property
    def sensitivity(self) -> float:
        """Share of the class's validation images whose probability reaches the threshold."""
        return self.true_positives / self.positives

    @property
    def specificity(self) -> float:
        """Share of the other classes' validation images whose probability is below the threshold."""
        return self.true_negatives / self.negatives

    @property
    def warnings(self) -> list[str]:
        """What a user must know before relying on this threshold."""
        found = []
        reached = self.specificity if self.rule == "specificity" else self.sensitivity
        if self.target is not None and reached < self.target:
            found.append(
                f"{self.class_name}: no threshold gives {self.name} on validation; the nearest is {reached:.3f}"
            )
        if self.positives < FEW_IMAGES:
            few = count(self.positives, "validation image")
            found.append(f"{self.class_name}: its thresholds are based on only {few} with this label")
        if 0 in (self.true_positives, self.true_negatives):
            wrong = "no image of the class" if self.true_positives == 0 else "every image of the other classes"
            found.append(f"{self.class_name}: on validation, the threshold for {self.name} makes {wrong} positive")
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OperatingPoint:
        """Make a point from the values in an untrusted file; raise ValueError if the values are impossible."""
        try:
            point = cls(**values)
        except TypeError as error:
            raise ValueError(
                f"{values!r:.200} is not an operating point; expected class_name, rule, target, threshold, four counts"
            ) from error
        counts = (point.true_positives, point.positives, point.true_negatives, point.negatives)
        numbers = [point.threshold, *([] if point.target is None else [point.target])]
        possible = (
            isinstance(point.class_name, str)
            and point.rule in RULES
            and (point.target is None) == (point.rule == "youden")
            and all(type(count) is int for count in counts)
            and 0 <= point.true_positives <= point.positives > 0
            and 0 <= point.true_negatives <= point.negatives > 0
            and all(isinstance(value, float | int) and 0 <= value < 2 for value in numbers)
        )
        if not possible:
            raise ValueError(
                f"operating point {values!r:.200} has impossible values, such as a negative threshold or count"
            )
        return point


def targets_by_class(
    setting: float | Mapping[str, float] | None, classes: Sequence[str], default: float | None = None
) -> dict[str, float]:
    """Return the target sensitivity, or target specificity, of each class that has one.

    ``setting`` is one number for all classes, or a number by class name. A class without a number gets the default; if
    the default is None, the class gets no target.

    Raises:
        UserError: A number is for a class that is not in ``classes``.

    >>> targets_by_class({"CVP": 0.95}, ["CVP", "NOR"], 0.9)
    {'CVP': 0.95, 'NOR': 0.9}
    """
    given = setting if isinstance(setting, Mapping) else dict.fromkeys(classes, setting)
    if unknown := [name for name in given if name not in classes]:
        raise UserError(
            f"sensitivity or specificity names the unknown class {unknown[0]!r}; the classes are {', '.join(classes)}"
        )
    targets = {name: given.get(name, default) for name in classes}
    return {name: float(target) for name, target in targets.items() if target is not None}


def threshold_warnings(points: Iterable[OperatingPoint]) -> list[str]:
    """Return the warnings of several operating points, each warning once."""
    return list(dict.fromkeys(warning for point in points for warning in point.warnings))


def choose_operating_points(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    sensitivity: Mapping[str, float],
    specificity: Mapping[str, float],
) -> list[OperatingPoint]:
    """Choose the thresholds of each class on validation images.

    The rule ``sensitivity`` takes the highest threshold that reaches the target, so that the specificity is as high as
    possible. The rule ``specificity`` takes the lowest threshold that reaches the target. Both rules consider only
    thresholds with at least one true positive and one true negative (if there are none, all thresholds). If no
    threshold reaches the target, the rule takes the threshold with the highest sensitivity (or specificity).
    ``youden`` maximises sensitivity + specificity - 1 (Youden 1950, Cancer 3:32). A threshold lies midway between two
    probabilities of validation images, so that rounding changes no decision.

    Args:
        y_true: Class indices, shape (N,).
        probabilities: Shape (N, C).
        classes: Names of the columns.
        sensitivity: The target sensitivity of each class that has one.
        specificity: The target specificity of each class that has one.

    Returns:
        The points of each class. A class without images, or with all images, has no points.

    >>> y, p = [0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    >>> points = choose_operating_points(y, p, ["NOR", "CVP"], {"CVP": 1.0}, {})
    >>> [(point.class_name, point.name, round(point.threshold, 2)) for point in points]
    [('NOR', 'youden', 0.8), ('CVP', 'sensitivity=1', 0.2), ('CVP', 'youden', 0.6)]
    """
    labels, table = check(y_true, probabilities, classes)
    points: list[OperatingPoint] = []
    for k, name in enumerate(classes):
        points += class_operating_points(labels == k, table[:, k], name, sensitivity.get(name), specificity.get(name))
    return points


def class_operating_points(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.float64],
    name: str,
    sensitivity: float | None,
    specificity: float | None,
) -> list[OperatingPoint]:
    """Return the points of a class or finding (see `choose_operating_points`); ``truth`` says which images have it."""
    if not truth.any() or truth.all():
        return []
    from sklearn.metrics import roc_curve  # here, because predictions need no scikit-learn

    fpr, tpr, cuts = roc_curve(truth, probabilities, drop_intermediate=False)
    between = (cuts + np.append(cuts[1:], 0.0)) / 2
    thresholds = np.where(between > np.append(cuts[1:], -1.0), between, cuts)  # adjacent floats have no midpoint
    thresholds[0], thresholds[-1] = ABOVE_ALL, 0.0
    mixed = np.flatnonzero((tpr > 0) & (fpr < 1))  # with true positives and true negatives
    chosen: dict[str, tuple[float | None, int]] = {}
    if sensitivity is not None:
        chosen["sensitivity"] = (sensitivity, _first(mixed, tpr, sensitivity))
    if specificity is not None:
        chosen["specificity"] = (specificity, _first(mixed[::-1], 1 - fpr, specificity))
    chosen["youden"] = (None, int(np.argmax(tpr - fpr)))
    points = []
    for rule, (target, i) in chosen.items():
        positives, negatives = int(truth.sum()), int((~truth).sum())
        hits = round(tpr[i] * positives), positives, round((1 - fpr[i]) * negatives), negatives
        points.append(OperatingPoint(name, rule, target, float(thresholds[i]), *hits))
    return points


def _first(order: NDArray[np.intp], rate: NDArray[np.float64], target: float) -> int:
    """Return the first index in `order` whose rate reaches the target; otherwise the index of the highest rate."""
    if not len(order):  # no threshold has true positives and true negatives
        return int(np.argmax(rate))
    reached = order[rate[order] >= target]
    return int(reached[0] if len(reached) else order[np.argmax(rate[order])])


def average_operating_points(members: Sequence[Iterable[OperatingPoint]]) -> list[OperatingPoint]:
    """Return the points of an ensemble that averages its members' probabilities; thresholds are means over members.

    Each member counts its right and wrong decisions at its own threshold, on its own validation images; the counts of
    the ensemble are the sums of its members' counts. A point that any member lacks is left out.
    """
    keyed = [{(p.class_name, p.rule, p.target): p for p in points} for points in members]
    points = []
    for key in keyed[0] if keyed else ():
        if all(key in found for found in keyed):
            each = [found[key] for found in keyed]
            counts = ("true_positives", "positives", "true_negatives", "negatives")
            sums = [sum(getattr(point, count) for point in each) for count in counts]
            points.append(OperatingPoint(*key, float(np.mean([point.threshold for point in each])), *sums))
    return points


def select_operating_points(points: Sequence[OperatingPoint], name: str) -> list[OperatingPoint]:
    """Return the points of a rule; ``name`` is the rule (``youden``), or rule and target (``sensitivity=0.9``).

    Raises:
        UserError: No class has this rule, or a class has another target.
    """
    rule, equals, target = name.partition("=")
    found = [point for point in points if point.rule == rule.strip()]
    if equals:
        try:
            wanted = float(target)
        except ValueError:
            wanted = float("nan")
        found = found if all(point.target == wanted for point in found) else []
    if not found:
        there = ", ".join(dict.fromkeys(point.name for point in points))
        if not there:
            raise UserError(f"no operating point {name!r}: the model has none (train and crossval choose them)")
        raise UserError(f"not every class has the operating point {name!r}; the model has {there}")
    return found


def positives(
    points: Sequence[OperatingPoint], probabilities: ArrayLike, classes: Sequence[str]
) -> NDArray[np.float64]:
    """Return whether each image is positive for each class: 1, 0, or NaN for a class without a point; shape (N, C)."""
    table = np.asarray(probabilities, np.float64)
    thresholds = {point.class_name: point.threshold for point in points}
    found = np.full(table.shape, np.nan)
    for k, name in enumerate(classes):
        if name in thresholds:
            found[:, k] = table[:, k] >= thresholds[name]
    return found
