"""Which images show the same person."""

from __future__ import annotations

from collections.abc import Sequence

from cvrnet.data import Record


def patient_keys(records: Sequence[Record]) -> list[str]:
    """A key of each image's patient, equal for images of one patient.

    A patient id is one person over all sources of the data set; an image without one is a patient of its own.

    >>> from pathlib import Path
    >>> patient_keys([Record(Path("a"), "a"), Record(Path("b"), "b", source="nih", patient_id="7")])
    ['row 0', 'id 7']
    """
    return [f"id {record.patient_id}" if record.patient_id else f"row {i}" for i, record in enumerate(records)]
