"""Define the size, colours, axes and legend of all figures, and save figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from cvrnet.errors import UserError
from cvrnet.files import atomic_write

DPI = 200
PAD = 0.08  # inches around the axes and their labels
FONT_SIZE = 9.0  # points
LEGEND_CHARACTERS = 44  # most characters in a line of the legend
TEXT = "#1a1a1a"
GREY = "#767676"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # the strongest contrast on white first
DASHES = ("solid", (0, (5, 1.5)), (0, (1, 1)))
MOST_CLASSES = len(OKABE_ITO) * len(DASHES)
"""The most classes that lines, legends and cells with numbers can show; with more, figures are drawn in another way."""
CROWD: dict[str, Any] = {"color": "#a8a8a8", "linewidth": 0.6, "alpha": 0.5}  # lines of more than MOST_CLASSES classes


def new_figure(heights: Sequence[float] = (1,), columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a white figure with a grid of axes; each row shares one y axis, each column one x axis.

    ``heights`` are the relative heights of the rows. The axes have dark ticks, two spines and faint grid lines.
    """
    space = 0.04 if columns > 1 else 0
    layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD, wspace=space, hspace=0)
    figure = Figure(layout=layout, facecolor="white", edgecolor="white")
    FigureCanvasAgg(figure)  # always the Agg canvas, even if the user has chosen another backend
    grid = figure.subplots(len(heights), columns, sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    axes = grid.ravel().tolist()
    for ax in axes:
        ax.set_facecolor("white")
        ax.tick_params(which="both", colors=TEXT, labelcolor=TEXT, labelsize=FONT_SIZE)
        # matplotlib's own choice of ticks expects labels of three characters; those of "-0.075" would touch.
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.grid(color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
        for side, spine in ax.spines.items():
            spine.set_edgecolor(TEXT)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def set_labels(ax: Axes, x: str = "", y: str = "") -> None:
    """Label the x axis and the y axis with the texts `x` and `y`."""
    ax.set_xlabel(x, color=TEXT, fontsize=FONT_SIZE + 1, parse_math=False)
    ax.set_ylabel(y, color=TEXT, fontsize=FONT_SIZE + 1, parse_math=False)


def legend_below(figure: Figure, entries: Sequence[tuple[Artist, str]], columns: int = 1) -> None:
    """Draw a legend below the axes, where it does not cover any data.

    Labels are wrapped and shown literally: "$" does not start mathematics, and a leading "_" does not hide a label.
    """
    box = figure.legend(
        [artist for artist, _ in entries],
        ["label"] * len(entries),
        loc="outside lower center",
        ncols=columns,
        handlelength=3.0,
        fontsize=FONT_SIZE,
        labelcolor=TEXT,
        frameon=False,
    )
    for line, (_, text) in zip(box.get_texts(), entries, strict=True):
        line.set_parse_math(False)
        line.set_text(textwrap.fill(text, LEGEND_CHARACTERS))


def finish(figure: Figure, axes: Sequence[Axes], width: float, height: float, title: str | None) -> Figure:
    """Add the title, and set the figure's size so that its first axes measure `width` x `height` inches.

    With a fixed figure size, axes with an equal aspect would shrink, and the legend would cover them.
    """
    if title:
        size = FONT_SIZE + 2
        figure.suptitle(wrap(title, width + 0.5, size), color=TEXT, fontsize=size, parse_math=False)
    for ax in figure.axes:  # the layout reserves no width for x labels
        ax.set_xlabel("\n".join(wrap(line, width - 0.1, FONT_SIZE + 1) for line in ax.get_xlabel().splitlines()))
    room = sum(legend.get_window_extent().height for legend in figure.legends) / figure.dpi
    figure.set_size_inches(figure.get_figwidth(), figure.get_figheight() + room)  # else a tall legend leaves no axes
    # Two passes, because the extents of labels depend on the figure's size: the second starts close to the final size.
    for _ in range(2):
        lay_out(figure)
        inches = figure.get_size_inches()
        boxes = [ax.get_position() for ax in axes]
        all_heights = sum(box.height for box in boxes)
        figure.set_size_inches(
            inches[0] + width - boxes[0].width * inches[0],
            inches[1] + (height / boxes[0].height - inches[1]) * all_heights,
        )
    return figure


def wrap(text: str, width: float, size: float = FONT_SIZE) -> str:
    """Wrap a text to a width in inches. ``size`` is the font's size in points; a character is about 0.58 sizes wide."""
    return textwrap.fill(text, max(8, round(width * 72 / (0.58 * size))))


def lay_out(figure: Figure) -> None:
    """Run only the layout engine: `figure.draw_without_rendering` would also visit every artist, which takes longer."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    for ax in figure.axes:
        ax.apply_aspect()


def class_style(index: int) -> dict[str, Any]:
    """Return the line style (colour, dashes, width) of a class by its index; the first `MOST_CLASSES` styles differ."""
    return {
        "color": OKABE_ITO[index % len(OKABE_ITO)],
        "linestyle": DASHES[index // len(OKABE_ITO) % len(DASHES)],
        "linewidth": 1.6,
    }


def save_figure(figure: Figure, path: str | Path, dpi: int = DPI) -> None:
    """Save a figure atomically, in the format that is given by the suffix of `path`, such as .png, .pdf or .svg.

    Raises:
        UserError: matplotlib does not know the format.
    """
    kind = Path(path).suffix.lower().lstrip(".")
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: unknown figure format, expected one of {', '.join('.' + k for k in sorted(known))}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi, facecolor="white", edgecolor="white")
