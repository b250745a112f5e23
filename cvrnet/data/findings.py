"""The findings of an image: which of several it has, which it has not, and which are not known."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = "|"  #: between the findings of one image
NO_FINDING = "No Finding"  #: the label of an image without any


def join_findings(names: Sequence[str]) -> str:
    """The label of an image with these findings.

    >>> join_findings(["Edema", "Effusion"]), join_findings([])
    ('Edema|Effusion', 'No Finding')
    """
    return SEPARATOR.join(names) or NO_FINDING
