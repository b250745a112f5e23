"""Turn the volumes of a data set (NIfTI files, DICOM series and multi-frame files) into their slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cvrnet.data.ct import dicom_modality
from cvrnet.data.identity import keyed_hash
from cvrnet.data.image import dicom_module, is_dicom_file, split_frame
from cvrnet.data.limits import Refused
from cvrnet.data.nifti_files import is_nifti, nifti_module
from cvrnet.data.record import Record
from cvrnet.data.series import arrange
from cvrnet.data.studies import MODALITY, STUDY
from cvrnet.data.walk import walk


class _Slice(NamedTuple):
    record: Record
    series: str = ""  # the series of a volume's slice; "" for other pictures


def expand_volumes(records: Sequence[Record], slices: int) -> tuple[list[Record], list[str]]:
    """Return the pictures of a data set: each volume is replaced by at most `slices` of its slices, evenly spaced.

    A volume without a ``study_id`` is a study by itself. Pictures from DICOM and NIfTI files have the column
    ``modality``. Scout views of CTs are left out.

    Returns:
        The pictures, and one line for each record or study that is left out as a whole: a record whose file cannot be
        read, or a study with several series or with slices of several sizes.
    """
    problems: list[str] = []
    found: list[_Slice] = []
    for record in records:
        try:
            found += _open(record)
        except (Refused, OSError) as error:
            problems.append(record.problem(getattr(error, "strerror", None) or str(error)))
    found = _in_order(found)
    wrong = _wrong_studies(found)
    problems += [f"study {study}: {reason}: left out" for (_, study), reason in wrong.items()]
    kept = [each for each in found if _study_of(each.record) not in wrong]
    return _thinned(kept, slices), problems


def _open(record: Record) -> list[_Slice]:
    """Return the pictures of a record: the slices of its volume, or the record itself."""
    if is_nifti(record.path):
        volume = _named(record, record.name, "CT")
        count = nifti_module().slice_count(record.path)
        return [_Slice(_part(volume, f"{record.path}#{n}", f"{record.name}#{n}"), record.name) for n in _range(count)]
    if record.path.is_dir():
        names = walk(record.path).images
        if not names:
            raise Refused("an empty study: a folder without images")
        inside = [_part(record, record.path / name, f"{record.name}/{name}") for name in names]
        return [each for part in inside for each in _open(_named(part, record.name, ""))]
    if is_dicom_file(record.path):
        return _dicom(record)
    return [_Slice(record)]


def _dicom(record: Record) -> list[_Slice]:
    """Return the frames of a DICOM file, or the file itself."""
    modality = dicom_modality(record.path)
    found = []
    for part in arrange([record.path]):
        record = replace(record, patient_id=record.patient_id or part.patient)
        if part.volume is None:
            if modality != "CT":  # a CT file that is not a slice is a scout view
                found.append(_Slice(_with(record, MODALITY, modality)))
            continue
        number = split_frame(part.path)[1]
        series = keyed_hash(part.key[1])[:8]  # hashed, because a UID may contain the time and the scanner
        study = record.name if number else f"{Path(record.name).parent.as_posix()}/series-{series}"
        name = f"{record.name}#{number}" if number else record.name
        found.append(_Slice(_part(_named(record, study, modality), part.path, name), series))
    return found


def _in_order(found: Sequence[_Slice]) -> list[_Slice]:
    """Return the slices, with those of DICOM series sorted by their positions."""
    places = {each.record.path: place for place, each in enumerate(found)}
    single = [e.record.path for e in found if e.series and "#" not in e.record.path.name]
    ordered = iter([found[places[part.path]] for part in arrange(single)])
    chosen = set(single)
    return [next(ordered) if each.record.path in chosen else each for each in found]


def _wrong_studies(found: Iterable[_Slice]) -> dict[tuple[str, str], str]:
    """Return (patient, study) -> why the study's slices are not one volume; only for studies with a problem."""
    series: dict[tuple[str, str], set[str]] = {}
    sizes: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for record, name in found:
        key = _study_of(record)
        if key[1] and (name or record.metadata.get(MODALITY, "").upper() == "CT"):
            series.setdefault(key, set()).add(name)
            if size := _size(record.path):
                sizes.setdefault(key, set()).add(size)
    wrong = {}
    for key, names in series.items():
        if len(names) > 1:
            wrong[key] = f"{len(names)} series; expected one"
        elif len(mine := sizes.get(key, ())) > 1:
            wrong[key] = "slices of two sizes, " + " and ".join(f"{w} x {h}" for w, h in sorted(mine)[:2])
    return wrong


def _study_of(record: Record) -> tuple[str, str]:
    return record.patient_id, record.metadata.get(STUDY, "")


def _size(path: Path) -> tuple[int, int] | None:
    """Return a slice's width and height; None for a frame (all frames of a file have one size) or unreadable file."""
    if "#" in path.name:
        return None
    try:
        if is_dicom_file(path):
            header = dicom_module().read_header(path, ("Rows", "Columns"))
            return int(header.Columns), int(header.Rows)
        with Image.open(path) as picture:
            return picture.size
    except Exception:  # noqa: BLE001  # decoding the picture gives the reason
        return None


def _thinned(found: Sequence[_Slice], slices: int) -> list[Record]:
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, (record, series) in enumerate(found):
        if series:
            groups.setdefault((*_study_of(record), series), []).append(place)
    left_out: set[int] = set()
    for places in groups.values():
        if len(places) > slices:
            chosen = np.linspace(0, len(places) - 1, slices).round().astype(int)
            left_out |= {*places} - {places[i] for i in chosen}
    return [record for place, (record, _) in enumerate(found) if place not in left_out]


def _range(count: int) -> range:
    return range(1, count + 1)


def _part(record: Record, path: str | Path, name: str) -> Record:
    return replace(record, path=Path(path), name=name)


def _named(record: Record, study: str, modality: str) -> Record:
    """Return the record with this study (if it has no study yet) and this modality (if this is not ``""``)."""
    record = record if record.metadata.get(STUDY) else _with(record, STUDY, study)
    return _with(record, MODALITY, modality) if modality else record


def _with(record: Record, column: str, value: str) -> Record:
    return replace(record, metadata={**record.metadata, column: value})
