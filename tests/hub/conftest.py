"""An image, and a cross-validation with every file that one has, for the tests that need more than models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.hub_runs import make_crossval


@pytest.fixture(scope="session")
def crossval(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: tests share it. Its own figures have one pixel; those of its folds are real."""
    return make_crossval(run, tmp_path_factory.mktemp("crossval") / "folds")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "chest.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 70), dtype=np.uint8)).save(path)
    return path
