"""What the tests of every worker read, made once: by the worker that needs it first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def folder_of_session(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """The folder or file at this path. The first to ask makes it, and others wait; nobody may change it afterwards.

    A path has its last name from the start, because runs write down where their data are.
    """
    whole = path.with_name(f"{path.name}.whole")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not whole.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
            make(path)
            whole.touch()
    return path
