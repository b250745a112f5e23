"""Phantoms drawn once for each worker: many tests write the same ones."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from cvrnet.data import phantom_studies, phantoms
from cvrnet.data.drawing import draw_film

_drawn = lru_cache(2000)(draw_film)  # most have 64 pixels or fewer; of 256 pixels, these would take 400 MB


def draw_once(patch: pytest.MonkeyPatch) -> None:
    """Keep the last films that were drawn for sets of phantoms."""
    for module in (phantoms, phantom_studies):
        patch.setattr(module, "draw_film", _copies)


def _copies(*arguments: Any, **options: Any) -> tuple[np.ndarray, ...]:
    return tuple(part.copy() for part in _drawn(*arguments, **options))  # a marker is written onto a film
