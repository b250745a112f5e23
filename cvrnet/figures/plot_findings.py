"""Draw the AUC of each finding with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cvrnet.figures.style import GREY, OKABE_ITO, finish, new_figure, set_labels

ROW = 0.3  # inches


def plot_findings(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw the AUC of each finding with its 95 % interval, in the order of the rows; the last row is the mean.

    Each row has ``finding``, ``roc_auc``, ``roc_auc_low`` and ``roc_auc_high``; without an interval, both bounds are
    None.
    """
    figure, (ax,) = new_figure()
    for y, row in enumerate(rows):
        value, low, high = (row[f"roc_auc{end}"] for end in ("", "_low", "_high"))
        reach = None if low is None else [[max(value - low, 0)], [max(high - value, 0)]]
        last = y == len(rows) - 1
        colour, marker = (OKABE_ITO[1], "D") if last else (OKABE_ITO[0], "o")
        ax.errorbar(value, y, xerr=reach, fmt=marker, color=colour, markersize=5, capsize=3, linewidth=1.4)
    ax.axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    ax.set_yticks(np.arange(len(rows)), [row["finding"] for row in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    set_labels(ax, "AUC (0.5: no better than chance)")
    return finish(figure, [ax], 3.4, max(1.2, ROW * len(rows)), title)
