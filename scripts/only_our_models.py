"""A pytest plugin for timm's own tests: timm lists only the models of cvrnet.

If the environment variable MODELS names some of these models, timm lists only those.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
import timm

import cvrnet


def pytest_configure() -> None:
    """Restrict the list before timm's tests are imported, because the import makes tests for every listed model."""
    ours = cvrnet.list_models()
    wanted = os.environ["MODELS"].split() or ours
    if unknown := sorted({*wanted} - {*ours}):
        raise pytest.UsageError(f"unknown model {unknown[0]!r}; expected some of {', '.join(ours)}")
    listed = timm.list_models

    def list_models(*arguments: Any, **options: Any) -> list[str]:
        return [name for name in listed(*arguments, **options) if name.partition(".")[0] in wanted]

    timm.list_models = list_models


def pytest_collection_finish() -> None:
    """Exclude the imported objects from garbage collection, which scripting and tracing of models start often."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
