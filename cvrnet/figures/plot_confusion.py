"""Draw the confusion matrix as the papers print it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.figures.style import FONT_SIZE, MOST_CLASSES, TEXT, finish, new_figure, set_labels

LIGHT_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.0, 0.6, 256)))  # light enough for dark text everywhere
CELL = 0.85  # least side of a cell in inches; a long class name makes it wider
NAMES, LINE, LONGEST = 60, 0.15, 24  # many classes: most names on a side, inches per name, most characters of a name


def plot_confusion_matrix(matrix: ArrayLike, classes: Sequence[str], title: str | None = None) -> Figure:
    """Draw counts and column percentages as in the first paper, Tables 4-8.

    The columns are the actual classes, and the rows are the predicted classes.

    A cell's percentage is its share of the images of the actual class (the column), so the diagonal shows the
    sensitivities. The percentage also shades the cell. An actual class without images has no percentages. With more
    than 18 classes, the cells have no numbers. With more than 60 classes, the figure does not grow further, and some
    names are left out.

    ``matrix`` has shape (C, C), and **its rows are the actual classes**, as from `cvrnet.metrics.confusion_matrix`; the
    figure transposes it. ``classes`` are the names of the classes, in the order of the matrix's rows.

    Raises:
        UserError: The matrix is not C x C.
    """
    counts = np.asarray(matrix).T  # rows predicted, columns actual
    n = len(classes)
    if counts.shape != (n, n):
        shape = counts.T.shape
        raise UserError(f"confusion matrix of shape {shape}: expected {(n, n)} for the classes {list(classes)}")
    support = counts.sum(0)
    percent = 100 * counts / np.where(support > 0, support, 1)
    figure, (ax,) = new_figure()
    ax.grid(False)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    for spine in ax.spines.values():
        spine.set_visible(False)
    set_labels(ax, "Actual class\n(% of column)", "Predicted class")
    side = _shades(figure, ax, percent, classes) if n > MOST_CLASSES else _cells(figure, ax, counts, percent, classes)
    return finish(figure, [ax], side, side, title)


def _cells(
    figure: Figure, ax: Axes, counts: NDArray[Any], percent: NDArray[np.float64], classes: Sequence[str]
) -> float:
    """Draw cells with count and percentage; return the side of the whole matrix in inches."""
    n, support = len(classes), counts.sum(0)
    ax.pcolormesh(percent, cmap=LIGHT_BLUES, vmin=0, vmax=100, edgecolors="white", linewidth=2)
    for row, column in np.ndindex(n, n):
        style: dict[str, Any] = {"ha": "center", "color": TEXT, "weight": "bold" if row == column else "normal"}
        share = f"{percent[row, column]:.2f} %" if support[column] else "–"
        ax.text(column + 0.5, row + 0.49, f"{counts[row, column]:,}", va="bottom", fontsize=FONT_SIZE + 2, **style)
        ax.text(column + 0.5, row + 0.57, share, va="top", fontsize=FONT_SIZE - 0.5, **style)
    names = [textwrap.fill(name, 13) for name in classes]
    ticks = np.arange(n) + 0.5
    ax.set_xticks(
        ticks, [f"{name}\n(n = {count:,})" for name, count in zip(names, support, strict=True)], parse_math=False
    )
    ax.set_yticks(ticks, names, parse_math=False)
    widest = max(text.get_window_extent().width for text in ax.get_xticklabels()) / figure.dpi
    return n * max(CELL, widest + 0.1)


def _shades(figure: Figure, ax: Axes, percent: NDArray[np.float64], classes: Sequence[str]) -> float:
    """Draw shaded cells with a colour bar beside them; return the side of the whole matrix in inches."""
    mesh = ax.pcolormesh(percent, cmap="Blues", vmin=0, vmax=100)
    bar = figure.colorbar(mesh, ax=ax, shrink=0.5, pad=0.02)
    bar.ax.tick_params(colors=TEXT, labelsize=FONT_SIZE)
    set_labels(bar.ax, "%", "Share of the actual class")
    bar.outline.set_visible(False)
    every = -(-len(classes) // NAMES)
    names = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in classes[::every]]
    ticks = np.arange(0, len(classes), every) + 0.5
    ax.set_xticks(ticks, names, rotation=90, fontsize=FONT_SIZE - 1, parse_math=False)
    ax.set_yticks(ticks, names, fontsize=FONT_SIZE - 1, parse_math=False)
    return LINE * min(len(classes), NAMES)
