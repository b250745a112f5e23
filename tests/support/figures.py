"""Figures of one pixel where no test looks at them: drawing takes longer than everything else in a tiny training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

_REAL = {name: getattr(Figure, name) for name in ("savefig", "draw_without_rendering")}


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Save every figure as one pixel."""

    def save(figure: Figure, path: Path, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(path, "png")

    patch.setattr(Figure, "savefig", save)
    patch.setattr(Figure, "draw_without_rendering", lambda figure: None)


@contextmanager
def real_figures() -> Iterator[None]:
    """Draw figures within the block, whatever is patched around it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in _REAL.items():
            patch.setattr(Figure, name, function)
        yield
