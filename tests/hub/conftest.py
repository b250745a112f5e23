"""An image, and a cross-validation with every file that one has, for the tests that need more than models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.hub_runs import make_crossval
from tests.support.shared import folder_of_session, made_once


@pytest.fixture(scope="session")
def crossval(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: all workers share it. Its own figures are real; those of its folds have one pixel."""
    folder = folder_of_session(tmp_path_factory) / "hub-crossval"
    return made_once(folder, lambda folder: make_crossval(trained / "run", folder))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "chest.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 70), dtype=np.uint8)).save(path)
    return path
