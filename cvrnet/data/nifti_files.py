"""Recognise NIfTI volumes by their names, and import the module that reads them."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from cvrnet.data.limits import Refused

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a NIfTI volume, by its name."""
    return os.fspath(path).lower().endswith(NIFTI_SUFFIXES)


def nifti_module() -> ModuleType:
    """Return the module `cvrnet.data.nifti`; raise Refused if nibabel is not installed (extra ``ct``)."""
    try:
        return import_module("cvrnet.data.nifti")
    except ModuleNotFoundError as error:
        raise Refused(f'a NIfTI file, which needs {error.name}: pip install "cvrnet[ct]"') from None
