"""Draw how much the scores of models differ from those of the first model, on images that all models predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cvrnet.figures.style import GREY, OKABE_ITO, finish, new_figure, set_labels

ROW = 0.34  # inches


def score_name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's score, such as ``AUC of CVP``."""
    names = {"accuracy": "accuracy", "auc_macro": "AUC, macro", "auc": f"AUC of {row['class']}"}
    return names[row["score"]]


def plot_paired(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw the difference of each row with its 95 % interval, and a vertical line at zero.

    ``rows`` are those of `cvrnet.report.paired.paired_rows`.
    """
    figure, (ax,) = new_figure()
    colours = {score: OKABE_ITO[i] for i, score in enumerate(("accuracy", "auc_macro", "auc"))}
    for y, row in enumerate(rows):
        reach = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
        colour = colours[row["score"]]
        ax.errorbar(row["difference"], y, xerr=reach, fmt="D", color=colour, markersize=5, capsize=3, linewidth=1.4)
    ax.axvline(0, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    labels = [f"{row['model']}: {score_name(row)}" for row in rows]
    ax.set_yticks(np.arange(len(rows)), labels, parse_math=False)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    set_labels(ax, f"Difference from {rows[0]['reference']}")
    return finish(figure, [ax], 3.4, max(1.2, ROW * len(rows)), title)
