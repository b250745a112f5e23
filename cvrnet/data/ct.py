"""Find out whether a file is a CT slice, and in which window to show it."""

from __future__ import annotations

import os
from contextlib import suppress

from cvrnet.data.image import dicom_module, is_dicom_file, split_frame
from cvrnet.data.limits import Refused
from cvrnet.data.nifti_files import is_nifti


def dicom_modality(path: str | os.PathLike[str]) -> str:
    """Return the modality in a DICOM file's tags, such as ``CT``; ``""`` for other files and unreadable tags."""
    path = split_frame(path)[0]
    if is_dicom_file(path):
        with suppress(Refused, OSError):
            dicom = dicom_module()
            return str(dicom.tag_text(dicom.read_header(path, ("Modality",)), "Modality")).upper()
    return ""


def window_of(path: str | os.PathLike[str], window: str) -> str:
    """Return ``window`` if the file is a CT slice; otherwise ``""``, which means the file's own window."""
    return window if window and (is_nifti(split_frame(path)[0]) or dicom_modality(path) == "CT") else ""
