"""Decide from probabilities whether an image is positive, which classes are possible, and whether to abstain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cvrnet.errors import UserError
from cvrnet.metrics.abstention import Abstention
from cvrnet.metrics.conformal import PredictionSets, coverage_index
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.operating_points import OperatingPoint, positives, select_operating_points, threshold_warnings


@dataclass(frozen=True)
class Decide:
    """Makes the decisions that the user asks for: which classes are positive or possible, and whether to abstain.

    By default, it makes none. Each decision adds keys to the dictionary that a call returns, and columns to a table of
    predictions.

    Raises:
        UserError: The model cannot make a requested decision, the value of ``coverage`` or ``abstain`` is not valid, or
            ``by_class`` is set without ``coverage``.
    """

    decisions: Decisions  #: the thresholds, prediction sets and limits of uncertainty of the model
    classes: Sequence[str]  #: names in the order of the probabilities
    #: The rule by which the thresholds were chosen: ``sensitivity``, ``specificity`` or ``youden``; also with its
    #: target, such as ``sensitivity=0.9``. Adds ``positive_CLASS`` for each class that has a threshold of this rule.
    #: Each class is decided separately.
    operating_point: str = ""
    #: The share of patients whose prediction sets shall contain the true class, such as 0.9. Adds ``set``, the classes
    #: to which the image may belong (`cvrnet.metrics.conformal`).
    coverage: float | None = None
    by_class: bool = False  #: whether the coverage also holds within each class, not only for all patients together
    #: A share such as 0.3. Adds ``abstain``: whether the image is more uncertain than about 70 % of the validation
    #: images (`cvrnet.metrics.abstention`).
    abstain: float | None = None

    def __post_init__(self) -> None:
        if self.operating_point:
            _ = self._points
        if self.coverage is not None:
            coverage_index(self.coverage)
            _ = self._sets
        elif self.by_class:
            raise UserError("by_class is for prediction sets; set a coverage, too")
        if self.abstain is not None:
            self._abstention.passed_on([[1.0] * len(self.classes)], self.abstain)

    @cached_property
    def _points(self) -> list[OperatingPoint]:
        return select_operating_points(self.decisions.operating_points, self.operating_point)

    @property
    def _sets(self) -> PredictionSets:
        if self.decisions.prediction_sets is None:
            raise UserError(
                "the model has no prediction sets; `cvrnet train` and `crossval` make them for models that choose one "
                "class; for a model of findings, use --operating-point"
            )
        return self.decisions.prediction_sets

    @property
    def _abstention(self) -> Abstention:
        if self.decisions.abstention is None:
            raise UserError(
                "the model cannot abstain: it has no limits of uncertainty; `cvrnet train` and `crossval` choose them "
                "for models that choose one class; for a model of findings, use --operating-point"
            )
        return self.decisions.abstention

    @property
    def columns(self) -> list[str]:
        """The names of the columns of `row`, in their order."""
        chosen = {point.class_name for point in self._points} if self.operating_point else ()
        columns = [f"positive_{name}" for name in self.classes if name in chosen]
        columns += ["set"] if self.coverage is not None else []
        return [*columns, *(["abstain"] if self.abstain is not None else [])]

    @property
    def warnings(self) -> list[str]:
        """Sentences on what a user must know before relying on these decisions."""
        found = threshold_warnings(self._points) if self.operating_point else []
        if self.coverage is not None:
            limits = self._sets.limits(self.classes, self.coverage, self.by_class)
            always = [name for name, limit in zip(self.classes, limits, strict=True) if limit == 0]
            if len(always) == len(self.classes):
                few = f"too few validation patients ({self._sets.patients}) for a coverage of {self.coverage:g}"
                found.append(f"{few}: every prediction set holds all classes")
            elif always:
                few = f"too few validation patients of {', '.join(always)} for a coverage of {self.coverage:g}"
                found.append(
                    f"{few}: every prediction set holds {'this class' if len(always) == 1 else 'these classes'}"
                )
        return found

    def __call__(self, probabilities: ArrayLike) -> dict[str, Any]:
        """Return the decisions for one image, from the probability of each class, (C,).

        ``positive_CLASS`` and ``abstain`` are booleans, ``set`` is a list of class names.
        """
        table = np.asarray(probabilities, np.float64)[None]
        decided: dict[str, Any] = {}
        if self.operating_point:
            found = zip(self.classes, positives(self._points, table, self.classes)[0].tolist(), strict=True)
            decided |= {f"positive_{name}": bool(value) for name, value in found if not np.isnan(value)}
        if self.coverage is not None:
            (members,) = self._sets.members(table, self.classes, self.coverage, self.by_class)
            decided["set"] = [name for name, member in zip(self.classes, members.tolist(), strict=True) if member]
        if self.abstain is not None:
            decided["abstain"] = bool(self._abstention.passed_on(table, self.abstain)[0])
        return decided

    def row(self, probabilities: ArrayLike) -> dict[str, Any]:
        """Return the decisions as cells of a table: booleans as 1 or 0, and the names in ``set`` joined by ``|``."""
        cells = self(probabilities)
        return {name: "|".join(v) if isinstance(v, list) else int(v) for name, v in cells.items()}
