"""The description of a public data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cvrnet.datasets.folder import Folder, Row


@dataclass(frozen=True)
class PublicSet:
    """A public data set: what its folder contains, and how its images become rows of a manifest.

    Attributes:
        name: The name on the command line.
        title: The name in its publication.
        expects: What the data set's folder must contain, for messages.
        rows: A function that takes a `Folder`, yields the manifest's rows, and notes in the `Folder` what is left out.
        published: Name of a count, such as ``images`` (a key in the result of `cvrnet.datasets.counts`) -> the
            count that the authors give.
        findings: The columns of the findings; empty if the manifest has the column ``label`` instead.
    """

    name: str
    title: str
    expects: str
    rows: Callable[[Folder], Iterable[Row]]
    published: Mapping[str, int] = field(default_factory=dict)
    findings: Sequence[str] = ()
