"""What all figures share: size, colours, axes, legend, and how they are saved."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cvrnet.errors import UserError
from cvrnet.files import atomic_write

DPI = 200
TEXT = "#1a1a1a"
GREY = "#767676"
FONT_SIZE = 9.0  # points
WIDTH = 4.5  # inches
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # strongest contrast on white first
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))


def new_figure(rows: int = 1, *, width: float = WIDTH, height: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A white figure of `rows` axes one above the other that share the x axis; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white", edgecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist()
    for ax in axes:
        ax.set_facecolor("white")
        ax.tick_params(colors=TEXT, labelsize=FONT_SIZE, labelcolor=TEXT)
        ax.grid(color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
        for side, spine in ax.spines.items():
            spine.set_edgecolor(TEXT)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def label(ax: Axes, x: str = "", y: str = "") -> None:
    """Name the axes, with their units."""
    ax.set_xlabel(x, color=TEXT, fontsize=FONT_SIZE + 1)
    ax.set_ylabel(y, color=TEXT, fontsize=FONT_SIZE + 1)


def title(figure: Figure, text: str | None) -> None:
    """Head the figure, in lines that fit its width."""
    if text:
        lines = textwrap.fill(text, int(figure.get_figwidth() * 12))
        figure.suptitle(lines, color=TEXT, fontsize=FONT_SIZE + 2, parse_math=False)


def legend(owner: Figure | Axes, entries: Sequence[tuple[Artist, str]], **options: Any) -> None:
    """A legend whose labels are taken literally: no mathematics in "$", none left out for a leading "_"."""
    box = owner.legend(
        [artist for artist, _ in entries],
        ["x"] * len(entries),
        fontsize=FONT_SIZE,
        labelcolor=TEXT,
        facecolor="white",
        edgecolor="#cccccc",
        framealpha=0.9,
        **options,
    )
    for line, (_, text) in zip(box.get_texts(), entries, strict=True):
        line.set_parse_math(False)
        line.set_text(text)


def class_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the class with this index: distinct for 18 classes."""
    return {
        "color": OKABE_ITO[index % len(OKABE_ITO)],
        "linestyle": DASHES[index // len(OKABE_ITO) % len(DASHES)],
        "linewidth": 1.6,
    }


def save_figure(figure: Figure, path: str | Path, dpi: int = DPI) -> None:
    """Save as PNG, or as the suffix of `path` says (.pdf, .svg), whole or not at all.

    Raises:
        UserError: matplotlib knows no such format.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    known: Mapping[str, str] = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: unknown figure format, expected one of {', '.join('.' + k for k in sorted(known))}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, facecolor="white", edgecolor="white")
