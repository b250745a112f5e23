"""What the audit says: one finding, one plain sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["severe", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
COLUMNS = ("severity", "code", "sentence", "advice", "files")


@dataclass(frozen=True)
class Finding:
    """One thing that the data set can or cannot show.

    Attributes:
        code: a stable name, such as ``label-source``; a scope may follow after a colon.
        severity: ``severe`` (results from this data set will mislead), ``warning`` (look at it), or ``note``.
        sentence: what was found, in one sentence.
        figures: the numbers by name; ``table``, where present, is a list of rows (mappings with the same keys).
        files: names of the images concerned, as in the manifest.
        advice: what to do about it; ``""`` where nothing needs doing.
    """

    code: str
    severity: Severity
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    advice: str = ""

    def row(self) -> dict[str, Any]:
        """The finding as one row of a table: the number of files instead of their names, no figures."""
        return {
            "severity": self.severity,
            "code": self.code,
            "sentence": self.sentence,
            "advice": self.advice,
            "files": len(self.files),
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Severe findings, then warnings, then notes; otherwise the order is kept.

    >>> [finding.code for finding in worst_first([Finding("a", "note", ""), Finding("b", "severe", "")])]
    ['b', 'a']
    """
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def count(number: int, singular: str, plural: str = "") -> str:
    """The number with its noun.

    >>> count(1, "image"), count(1200, "image"), count(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
