"""The model that the demo's tests share."""

from __future__ import annotations

import pytest

from cvrnet.inference import Predictor
from tests.support.demos import make_run


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Two folds that answer differently."""
    return Predictor.from_pretrained(make_run(tmp_path_factory.mktemp("demo") / "folds"))
