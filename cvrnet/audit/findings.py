"""The results of the audit: each is a `Finding`, with one plain sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Severity = Literal["severe", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
COLUMNS = ("severity", "code", "sentence", "advice", "files")


@dataclass(frozen=True)
class Finding:
    """One result of the audit.

    Elsewhere in this package, a finding is what a radiologist finds in an image, such as edema.
    """

    code: str  #: a stable name, for some results with a colon and what they are about: ``class-source:NOR``
    severity: Severity  #: ``severe`` (scores on this data set will mislead), ``warning`` (look at it), or ``note``
    sentence: str  #: what was found
    figures: Mapping[str, Any] = field(default_factory=dict)  #: values by name; the value ``table`` is a list of rows
    files: tuple[str, ...] = ()  #: names of the images concerned, as in the manifest
    advice: str = ""  #: what to do about it; ``""`` if nothing is needed

    def row(self) -> dict[str, Any]:
        """Return the result as one row of a table, with the number of its files instead of their names."""
        return {name: getattr(self, name) for name in COLUMNS} | {"files": len(self.files)}


class Estimate(NamedTuple):
    """A value and the lower and upper end of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, interval: Sequence[float] | None) -> Estimate:
        """Return the value with its interval; without an interval, both ends equal the value."""
        return cls(value, *(interval or (value, value)))

    def __format__(self, style: str) -> str:
        """Return the value and, in parentheses, its interval.

        >>> f"{Estimate(0.8, 0.7, 0.9)}", f"{Estimate(0.8, 0.7, 0.9):.0%}"
        ('0.80 (0.70-0.90)', '80% (70%-90%)')
        """
        value, low, high = (format(number, style or ".2f") for number in self)
        return f"{value} ({low}-{high})"


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for CSV and JSON: an estimate fills three columns; the names in a tuple are joined by ``|``.

    >>> flat_row({"auc": Estimate(0.8, 0.7, 0.9), "classes": ("CVP", "NOR")})
    {'auc': 0.8, 'auc_low': 0.7, 'auc_high': 0.9, 'classes': 'CVP|NOR'}
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Estimate):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            flat[name] = "|".join(value) if isinstance(value, tuple) else value
    return flat


def grade(*, severe: bool, warning: bool) -> Severity:
    """Return ``severe`` or ``warning``, the first of them that is true; ``note`` if neither is true."""
    return "severe" if severe else "warning" if warning else "note"


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort results of the audit: severe results first, then warnings, then notes. Within a severity, keep the order.

    >>> [finding.code for finding in worst_first([Finding("a", "note", ""), Finding("b", "severe", "")])]
    ['b', 'a']
    """
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
