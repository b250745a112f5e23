"""An image, and a cross-validation with every file that one has, for the tests that need more than models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from cvrnet.hub import redact, staging
from cvrnet.runs.hub_download import file_hash
from tests.support.hub_runs import make_crossval
from tests.support.shared import folder_of_session, made_once

_Result = TypeVar("_Result")


@pytest.fixture(autouse=True, scope="module")
def _cheap_pushes() -> Iterator[None]:
    """Most tests push the same runs: checkpoints of equal content are loaded once, and equal figures redacted once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "load_checkpoint", _once(staging.load_checkpoint, "config.json", "model.safetensors"))
        patch.setattr(redact, "public_figure", _once(redact.public_figure))
        yield


def _once(function: Callable[[Path], _Result], *names: str) -> Callable[[Path], _Result]:
    """Keep a function's result for each content of a file, or of some files of a folder."""
    kept: dict[tuple[str, ...], _Result] = {}

    def keep(path: Path) -> _Result:
        files = [path / name for name in names] or [path]
        if not all(file.is_file() for file in files):  # one is missing, or a pipe
            return function(path)
        content = tuple(map(file_hash, files))
        if content not in kept:
            kept[content] = function(path)
        return kept[content]

    return keep


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
