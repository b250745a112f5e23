"""Fixtures that every test may use: real radiographs where they are present, phantoms everywhere."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def _real(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"real radiographs not present: {folder}")
    return folder


@pytest.fixture(scope="session")
def cxr() -> Path:
    """The folder of 1,552 real radiographs."""
    return _real("cxr")


@pytest.fixture(scope="session")
def odd() -> Path:
    """The folder of awkward and broken image files."""
    return _real("odd")
