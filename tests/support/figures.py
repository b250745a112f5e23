"""Save figures as one pixel if no test looks at them, because drawing takes longer than the rest of a tiny training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

_REAL = [
    (owner, name, getattr(owner, name)) for owner, name in ((Figure, "savefig"), (ConstrainedLayoutEngine, "execute"))
]


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Save every figure as one pixel."""

    def save(figure: Figure, path: Path, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(path, "png")

    patch.setattr(Figure, "savefig", save)
    patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


@contextmanager
def real_figures() -> Iterator[None]:
    """Draw real figures in the ``with`` block, also if they are patched outside it."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, function in _REAL:
            patch.setattr(owner, name, function)
        yield
