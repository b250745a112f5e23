"""The description of a public data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cvrnet.datasets.folder import Folder, Row


@dataclass(frozen=True)
class PublicSet:
    """A public data set: what its folder holds, and how its images become rows of a manifest.

    Attributes:
        name: As on the command line.
        title: As in its publication.
        expects: What a folder must hold to be it, for messages.
        rows: Gives the manifest's rows for a folder; it notes in the folder what it leaves out.
        published: What is counted -> the number that its authors give. The keys are those of `cvrnet.datasets.counts`.
        findings: The columns of the findings, if these have values of their own and not one column ``label``.
    """

    name: str
    title: str
    expects: str
    rows: Callable[[Folder], Iterable[Row]]
    published: Mapping[str, int] = field(default_factory=dict)
    findings: Sequence[str] = ()
