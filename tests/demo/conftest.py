"""The model that the demo's tests share."""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from cvrnet.inference import Predictor
from tests.support.demos import make_run

with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ImportError):
    file_of = inspect.getfile

    def file_but_of_gradio(of: Any) -> str:
        """As of a class without a file: at each import, Gradio compares the stubs of its components with their code."""
        if str(getattr(of, "__module__", "")).startswith("gradio."):
            raise OSError
        return file_of(of)

    patch.setattr(inspect, "getfile", file_but_of_gradio)
    import gradio  # noqa: F401


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Two folds that answer differently."""
    return Predictor.from_pretrained(make_run(tmp_path_factory.mktemp("demo") / "folds"))


@pytest.fixture(autouse=True, scope="module")
def _garbage_of_gradio() -> Iterator[None]:
    """Collect the event loops that Gradio leaves open, before they fail a later test in which warnings are errors."""
    yield
    gc.collect()
