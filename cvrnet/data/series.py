"""The slices of CT volumes and multi-frame files, in their order, and whose they are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvrnet.data.identity import pseudonym
from cvrnet.data.image import is_dicom
from cvrnet.data.limits import Refused


class Slice(NamedTuple):
    """One image to predict.

    Attributes:
        path: The file; a frame of several is named as in ``ct.dcm#12``.
        volume: What the image is a slice of: the file of many frames, or the folder of the series; None for an image
            that is no slice.
        patient: The patient's pseudonym; ``""`` where it is not known.
        key: Tells patients, and a patient's series, apart.
    """

    path: Path
    volume: Path | None = None
    patient: str = ""
    key: tuple[str, str] = ("", "")


def arrange(paths: Iterable[Path]) -> Iterator[Slice]:
    """Image files as they come, but the slices of DICOM volumes by patient, series and position.

    Slices are the frames of a file that has several, and the files of CT series (but not their scout views). Their
    position is that along the normal of the slices (ImagePositionPatient), else InstanceNumber, else the file's name;
    frames are in the file's order.

    Args:
        paths: The files; those that cannot be read stay, and fail when they are read.
    """
    for dicom, files in itertools.groupby(paths, _is_dicom):
        if not dicom:
            yield from map(Slice, files)
            continue
        groups: dict[tuple[str, str], list[tuple[Slice, tuple[float, ...]]]] = {}
        for i, path in enumerate(files):
            for slice_, place in _slices(path):
                groups.setdefault(slice_.key if slice_.volume else ("", str(i)), []).append((slice_, place))
        patients: dict[tuple[str, str], list[list[tuple[Slice, tuple[float, ...]]]]] = {}
        for key, group in groups.items():
            patients.setdefault((key[0], "") if key[0] else key, []).append(group)
        for series in itertools.chain.from_iterable(patients.values()):
            yield from (slice_ for slice_, _ in sorted(series, key=_order))


def _order(item: tuple[Slice, tuple[float, ...]]) -> tuple[Any, ...]:
    slice_, place = item
    return (*place, str(slice_.path))


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return is_dicom(file)
    except (OSError, ValueError):
        return False


_TAGS = (
    "Modality",
    "ImageType",
    "PatientID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "PhotometricInterpretation",
    "PixelData",
)


def _slices(path: Path) -> Iterator[tuple[Slice, tuple[float, ...]]]:
    """The images in one DICOM file, and where they lie."""
    try:
        from cvrnet.data.dicom import DAMAGED, frame_count, quiet, read_header
    except ModuleNotFoundError:  # which reading tells
        yield Slice(path), ()
        return
    with quiet():
        try:
            header = read_header(path, _TAGS)
            frames = frame_count(header, path)
            patient_id = " ".join(str(header.get("PatientID") or "").split())
            series = str(header.get("SeriesInstanceUID") or os.path.dirname(path))
            scout = "LOCALIZER" in (header.get("ImageType") or ())
            is_slice = frames > 1 or (header.get("Modality") == "CT" and not scout)
        except (Refused, *DAMAGED):
            yield Slice(path), ()
            return
        place = _place(header, DAMAGED)
    if not is_slice:
        yield Slice(path), ()
        return
    patient = pseudonym(patient_id, "p")
    owner = patient or f"\0{series}"
    if frames == 1:
        yield Slice(path, path.parent, patient, (owner, series)), place
    for number in range(1, frames + 1) if frames > 1 else ():
        yield Slice(Path(f"{path}#{number}"), path, patient, (owner, f"{series}\0{path}")), (0.0, float(number))


def _place(header: Any, damaged: tuple[type[Exception], ...]) -> tuple[float, ...]:
    """Where a slice lies: along the slices' normal, else by its number; slices without either come last."""
    try:
        position = np.array(header.ImagePositionPatient, dtype=float)
        across = np.array(header.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0), dtype=float)
        along = float(position @ np.cross(across[:3], across[3:]))
        if np.isfinite(along):
            return (0.0, round(along, 4))
    except damaged:
        pass  # not there, or no position: the number says
    try:
        return (1.0, float(header.InstanceNumber))
    except damaged:
        return (2.0, 0.0)
