"""Group pictures into bags (multiple-instance learning): the pictures of a study or patient, which share one label."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cvrnet.data.limits import MOST_SLICES
from cvrnet.data.record import Record
from cvrnet.errors import UserError
from cvrnet.formatting import counts

STUDY, DAY, MODALITY = "study_id", "day", "modality"
"""Columns of a manifest: a picture's study, its day (a number, counted from any date), and its modality."""

_KINDS = {"CT": "CT", **dict.fromkeys(("CR", "DX", "DR", "RG", "RF", "XR"), "radiograph")}


@dataclass(frozen=True, slots=True)
class Study(Record):
    """A bag: the pictures of a study or patient, and the values that these pictures share.

    Its name is the id of the study or patient or, if several patients have studies with the same id, ``patient/study``.
    """

    pictures: tuple[Record, ...] = ()
    days: tuple[float, ...] = ()  #: days from each picture to the last picture; all zero if the days are not known

    def keep(self, kept: Sequence[bool]) -> Study:
        """Return the bag with only those pictures whose value in ``kept`` is true."""
        if all(kept):
            return self
        pictures = tuple(itertools.compress(self.pictures, kept))
        days = tuple(itertools.compress(self.days, kept))
        return replace(self, pictures=pictures, days=tuple(day - min(days) for day in days))


def pictures_of(studies: Iterable[Record]) -> list[Record]:
    """Return the pictures of bags, one bag after the other; a record that is not a bag is itself a picture."""
    return [picture for study in studies for picture in (study.pictures if isinstance(study, Study) else (study,))]


def group_studies(records: Sequence[Record], unit: str, labelled: bool = True) -> tuple[list[Study], list[str]]:
    """Return the bags of a data set in the order of their first pictures, and a line for each bag or picture left out.

    With ``unit="study"``, the pictures of a bag have the same patient and ``study_id``; with ``unit="patient"``, the
    same patient. All pictures of a bag must have the same split and, if ``labelled``, the same label. A bag may have at
    most 600 pictures. If the data set has the column ``day``, it must contain a number for each picture. A bag that
    breaks one of these rules is left out, and so is a picture without the unit's id (``study_id`` or ``patient_id``).

    Raises:
        UserError: No picture has the unit's id, or the data set mixes modalities.
    """
    _refuse_mixed(records)
    key = [r.metadata.get(STUDY, "") if unit == "study" else r.patient_id for r in records]
    if not any(key):
        volumes = "volumes (DICOM, NIfTI)" if unit == "study" else "DICOM volumes with the tag PatientID"
        column = STUDY if unit == "study" else "patient_id"
        raise UserError(f"--unit {unit} needs the manifest's column {column}, or {volumes}")
    timed = any(r.metadata.get(DAY) for r in records)
    members: dict[tuple[str, str], list[Record]] = {}
    problems = []
    for name, record in zip(key, records, strict=True):
        if name:
            members.setdefault((name, record.patient_id), []).append(record)
        else:
            problems.append(record.problem(f"no {unit}_id: left out"))
    twice = Counter(name for name, _ in members)
    studies = []
    for (name, patient), pictures in members.items():
        shown = f"{patient}/{name}" if twice[name] > 1 else name
        if wrong := _problem(pictures, labelled, timed):
            problems.append(f"{unit} {shown}: {wrong}: left out")
        else:
            studies.append(_joined(shown, pictures, timed))
    return studies, problems


def _problem(pictures: Sequence[Record], labelled: bool, timed: bool) -> str:
    """Return why pictures cannot be one bag; ``""`` if they can."""
    if labelled and len(labels := {picture.label for picture in pictures}) > 1:
        return f"{len(labels)} labels ({', '.join(sorted(labels))}); expected one"
    if len({picture.split for picture in pictures}) > 1:
        return "pictures in two splits"
    if len(pictures) > MOST_SLICES:
        return f"{len(pictures)} pictures; expected at most {MOST_SLICES}"
    wrong = [picture for picture in pictures if timed and day_of(picture) is None]
    return f"{wrong[0].name}: day {wrong[0].metadata.get(DAY, '')!r:.20} is not a number" if wrong else ""


def _joined(name: str, pictures: Sequence[Record], timed: bool) -> Study:
    ordered = sorted(pictures, key=lambda picture: day_of(picture) or 0.0) if timed else list(pictures)
    values = [(day_of(picture) or 0.0) if timed else 0.0 for picture in ordered]
    common: dict[str, Any] = {name: _common([getattr(picture, name) for picture in ordered]) for name in _SHARED}
    columns = {column: [p.metadata.get(column, "") for p in ordered] for column in ordered[0].metadata}
    metadata = {column: cells[0] for column, cells in columns.items() if len({*cells}) == 1 and column != DAY}
    return Study(
        ordered[-1].path,
        name,
        **common,
        metadata=metadata,
        pictures=tuple(ordered),
        days=tuple(max(values) - value for value in values),
    )


_SHARED = ("label", "source", "patient_id", "split", "view")


def _common(values: Sequence[str]) -> str:
    return values[0] if len({*values}) == 1 else ""


def day_of(record: Record) -> float | None:
    """Return the day of a picture; None if its cell is not a number."""
    return day_number(record.metadata.get(DAY, ""))


def day_number(text: str) -> float | None:
    """Return the number in a cell; None if the cell is not a finite number.

    >>> day_number("-2.5"), day_number("inf"), day_number("3 days")
    (-2.5, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refuse_mixed(records: Sequence[Record]) -> None:
    """Raise UserError if the pictures have several modalities, such as CT slices and radiographs."""
    stated = [r.metadata.get(MODALITY, "").strip().upper() for r in records]
    kinds = Counter(_KINDS.get(modality, modality) for modality in stated if modality)
    if len(kinds) > 1:
        raise UserError(
            f"the data set mixes modalities ({counts(dict(kinds))}); expected one: a network could "
            "learn to recognise the modality instead of the disease"
        )
