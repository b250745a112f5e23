"""One image of a data set: its file, label, source, patient, split, view and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cvrnet.data.boxes import Box
from cvrnet.text import printable


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set.

    A patient may have several images, and several labels (before and during a disease). A text that is
    not known is ``""``.
    """

    path: Path  #: the image file, absolute
    name: str  #: as in the manifest: POSIX path relative to the data set's folder
    label: str = ""  #: the class
    source: str = ""  #: the hospital or collection
    patient_id: str = ""  #: one value for each patient in the whole data set, over all its sources
    split: str = ""  #: ``""``, ``"train"``, ``"val"`` or ``"test"``
    view: str = ""  #: the projection, such as PA or AP
    lung_mask: Path | None = None  #: image file with the mask of the lungs
    lesion_mask: Path | None = None  #: image file with the mask of the lesions
    lesion_boxes: tuple[Box, ...] = ()  #: boxes around the lesions
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)  #: the manifest's further columns
    #: if several findings are learned, whether the image has each of them: 1, 0, or None if not known
    findings: tuple[float | None, ...] = ()
    where: str = ""  #: the manifest's file name and line, for messages; ``""`` for an image found in a folder

    @property
    def has_lesion(self) -> bool:
        """Whether the data set marks a lesion in the image."""
        return self.lesion_mask is not None or bool(self.lesion_boxes)

    def problem(self, reason: str) -> str:
        """Return one line with row, image and problem: ``manifest.csv:2: a.png: file not found``."""
        return ": ".join(printable(part) for part in (self.where, self.name, reason) if part)


Row = tuple[Record, list[str]]  #: one image of a data set, and its problems
