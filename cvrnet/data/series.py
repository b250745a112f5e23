"""Put the slices of CT volumes and of multi-frame DICOM files in order, and find their patients."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvrnet.data.identity import pseudonym
from cvrnet.data.image import dicom_module, is_dicom_file
from cvrnet.data.limits import Refused


class Slice(NamedTuple):
    """One image that a model will classify: a slice of a volume, or another image."""

    path: Path  #: the image file; frame 12 of a multi-frame file is ``ct.dcm#12``
    volume: Path | None = None  #: a slice's multi-frame file, or the folder of its series; None for other images
    patient: str = ""  #: the patient's pseudonym, if known
    key: tuple[str, str] = ("", "")  #: key of the patient, and key of the series


def arrange(paths: Iterable[Path]) -> Iterator[Slice]:
    """Yield the images that the files contain, in the order of the files; but DICOM slices are grouped and sorted.

    Slices are the frames of a multi-frame file, and the files of CT series (but not their scout views). In each run of
    DICOM files that follow one another in ``paths``, the slices are grouped by patient, then by series. The slices of a
    series are sorted by their position along the axis perpendicular to them (ImagePositionPatient) or, without it, by
    InstanceNumber or the file's name. Frames keep the file's order. Files that cannot be read are also yielded;
    `read_image` later reports why.
    """
    for is_dicom, files in itertools.groupby(paths, is_dicom_file):
        if not is_dicom:
            yield from map(Slice, files)
            continue
        found = [item for path in files for item in _slices(path)]
        first: dict[object, int] = {}  # patient, or series -> the place where it first occurs
        ordered = []
        for i, (slice_, position) in enumerate(found):
            if slice_.volume:
                patient, series = first.setdefault(slice_.key[0], i), first.setdefault(slice_.key, i)
                ordered.append((patient, series, position, str(slice_.path), slice_))
            else:
                ordered.append((i, i, (), "", slice_))
        yield from (slice_ for *_, slice_ in sorted(ordered, key=lambda item: item[:-1]))


_TAGS = (
    *("Modality", "ImageType", "PatientID", "SeriesInstanceUID", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    # For frame_count:
    *("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation"),
    "PixelData",
)


def _slices(path: Path) -> Iterator[tuple[Slice, tuple[float, ...]]]:
    """Yield the images in one DICOM file, each with a key that sorts the slices of a series."""
    is_slice = False
    with suppress(Refused, OSError):  # read_image gives the reason
        dicom = dicom_module()
        with dicom.quiet(), dicom.refuse_damaged("a damaged DICOM file"):
            header = dicom.read_header(path, _TAGS)
            frames = dicom.frame_count(header, path)
            patient_id = dicom.tag_text(header, "PatientID")
            series = str(header.get("SeriesInstanceUID") or os.path.dirname(path))
            scout = "LOCALIZER" in (header.get("ImageType") or ())  # value 3 of ImageType for CT (PS3.3 C.8.2.1.1.1)
            position = _position(header)
            is_slice = frames > 1 or (header.get("Modality") == "CT" and not scout)
    if not is_slice:
        yield Slice(path), ()
        return
    patient = pseudonym(patient_id, "p")
    owner = patient or f"\0{series}"  # without a patient's id, each series counts as one patient
    if frames == 1:
        yield Slice(path, path.parent, patient, (owner, series)), position
    else:
        for number in range(1, frames + 1):
            yield Slice(Path(f"{path}#{number}"), path, patient, (owner, f"{series}\0{path}")), (0.0, float(number))


def _position(header: Any) -> tuple[float, ...]:
    """Return a slice's sort key: its position (PS3.3 C.7.6.2.1.1), else InstanceNumber, else a key that comes last."""
    with suppress(Exception):  # missing or damaged
        position = np.array(header.ImagePositionPatient, dtype=float)
        axes = np.array(header.get("ImageOrientationPatient") or (1, 0, 0, 0, 1, 0), dtype=float)
        along = float(position @ np.cross(axes[:3], axes[3:]))
        if np.isfinite(along):
            return (0.0, round(along, 4))
    with suppress(Exception):
        return (1.0, float(header.InstanceNumber))
    return (2.0, 0.0)
