"""Files that the tests of all workers read; the first worker that needs them makes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def folder_of_session(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this session share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder or file at ``path``; the first worker makes it, the others wait, and none may change it later.

    It is made at its final path, because run.json contains the path of the data.
    """
    whole = path.with_name(f"{path.name}.whole")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not whole.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
            make(path)
            whole.touch()
    return path
