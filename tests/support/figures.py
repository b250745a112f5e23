"""Draw no figures where no test looks at them, because drawing takes longer than the rest of a tiny training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

_SAVING = [
    (owner, name, getattr(owner, name)) for owner, name in ((Figure, "savefig"), (ConstrainedLayoutEngine, "execute"))
]
_PLOTS: dict[tuple[ModuleType, str], Any] = {}  # the real functions


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Make every ``plot_*`` function return an empty figure, and save every figure as one pixel."""

    def save(figure: Figure, path: Path, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(path, "png")

    import_module("cvrnet.report.draw")
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "cvrnet"]:
        for name, value in list(vars(module).items()):
            if name.startswith("plot_") and callable(value):
                _PLOTS.setdefault((module, name), value)
                patch.setattr(module, name, _plot_nothing)
            elif name == "_CURVES":  # the table of report/draw.py
                _PLOTS.setdefault((module, name), value)
                patch.setattr(
                    module, name, {key: (count, _plot_nothing, *rest) for key, (count, _, *rest) in value.items()}
                )
    patch.setattr(Figure, "savefig", save)
    patch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


def _plot_nothing(*_: object, **__: object) -> Figure:
    return Figure()


@contextmanager
def real_figures() -> Iterator[None]:
    """Draw real figures in the ``with`` block, also if they are patched outside it."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in _PLOTS.items():
            patch.setattr(module, name, value)
        for owner, name, function in _SAVING:
            patch.setattr(owner, name, function)
        yield
