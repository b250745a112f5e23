"""Read and write labels that name findings, such as ``Edema|Effusion`` or ``No Finding``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cvrnet.data.record import Record

SEPARATOR = "|"  #: between the findings of one image in the column ``label``
NO_FINDING = "No Finding"  #: label of an image without findings, or name of the column that marks such images

SOME_FINDING = "some finding"  #: label of an image with at least one finding, for code that needs one label per image


def is_no_finding(name: str) -> bool:
    """Return whether a name means "no findings": data sets write ``No Finding``, ``No finding`` or ``no_finding``.

    >>> is_no_finding("No finding"), is_no_finding(" no_finding"), is_no_finding("Edema")
    (True, True, False)
    """
    return " ".join(name.replace("_", " ").split()).casefold() == NO_FINDING.casefold()


def join_findings(names: Sequence[str]) -> str:
    """Return the label of an image with these findings.

    >>> join_findings(["Edema", "Effusion"]), join_findings([])
    ('Edema|Effusion', 'No Finding')
    """
    return SEPARATOR.join(names) or NO_FINDING


def split_findings(label: str) -> list[str]:
    """Return the findings that a label names; an empty list if it is ``No Finding`` (see `is_no_finding`).

    >>> split_findings("Edema | Effusion"), split_findings("No finding")
    (['Edema', 'Effusion'], [])
    """
    return [name for part in label.split(SEPARATOR) if (name := part.strip()) and not is_no_finding(name)]


def contradiction(label: str) -> str:
    """Return the problem of a label that names both findings and ``No Finding``; ``""`` for other labels.

    >>> contradiction("Edema|No finding"), contradiction("Edema|Mass")
    ("label 'Edema|No finding' names findings and also No Finding", '')
    """
    both = split_findings(label) and any(map(is_no_finding, label.split(SEPARATOR)))
    return f"label {label!r} names findings and also {NO_FINDING}" if both else ""


def count_labels(records: Sequence[Record], names: Sequence[str]) -> dict[str, int]:
    """Return name -> number of images that have this class or, if the names are findings, this finding."""
    counts = Counter(name for r in records for name in {r.label, *split_findings(r.label)})
    return {name: counts[name] for name in names}


def without_names(records: Sequence[Record]) -> list[Record]:
    """Return the images, labelled ``No Finding`` or ``some finding``, for checks that need one label per image."""
    return [replace(r, label=SOME_FINDING if split_findings(r.label) else NO_FINDING) for r in records]
