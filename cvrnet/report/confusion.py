"""The confusion matrix as the papers print it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cvrnet.errors import UserError
from cvrnet.report.style import FONT_SIZE, TEXT, label, new_figure, title

LIGHT_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.0, 0.6, 256)))  # light enough for dark text everywhere


def plot_confusion_matrix(matrix: ArrayLike, classes: Sequence[str], heading: str | None = None) -> Figure:
    """Counts and column percentages, laid out as v1's Tables 4-8: columns are the actual classes, rows the predicted.

    The percentage is the share of the actual class (the column), so the diagonal shows the sensitivities. Cells are
    shaded by it. An actual class without images has no percentage.

    Args:
        matrix: counts as `cvrnet.metrics.confusion_matrix` gives them, **rows true**, shape (C, C); turned for display.
            For a cross-validation, the sum over the folds.
        classes: names in the order of the rows.
        heading: the figure's heading.
    """
    counts = np.asarray(matrix).T  # rows predicted, columns actual
    n_classes = len(classes)
    if counts.shape != (n_classes, n_classes):
        raise UserError(f"confusion matrix of shape {counts.shape} for {n_classes} classes")
    support = counts.sum(0)
    share = 100 * counts / np.where(support > 0, support, 1)
    side = 1.9 + 0.85 * n_classes
    figure, (ax,) = new_figure(width=side + 0.6, height=side)
    ax.grid(False)
    ax.pcolormesh(share, cmap=LIGHT_BLUES, vmin=0, vmax=100, edgecolors="white", linewidth=2)
    for row, column in np.ndindex(n_classes, n_classes):
        percent = f"{share[row, column]:.2f} %" if support[column] else "–"
        weight = "bold" if row == column else "normal"
        style: dict[str, Any] = {"ha": "center", "color": TEXT, "weight": weight}
        ax.text(column + 0.5, row + 0.47, f"{counts[row, column]:,}", va="bottom", fontsize=FONT_SIZE + 2, **style)
        ax.text(column + 0.5, row + 0.57, percent, va="top", fontsize=FONT_SIZE - 0.5, **style)
    names = [textwrap.fill(name, 14) for name in classes]
    ticks = np.arange(n_classes) + 0.5
    ax.set_xticks(ticks, [f"{name}\n(n = {n:,})" for name, n in zip(names, support, strict=True)], parse_math=False)
    ax.set_yticks(ticks, names, parse_math=False)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    label(ax, "Actual class", "Predicted class")
    title(figure, heading)
    return figure
