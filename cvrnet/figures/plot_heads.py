"""Draw the accuracy of each head, and of the model, whose output is the average of the heads' outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cvrnet.errors import UserError
from cvrnet.figures.style import GREY, OKABE_ITO, TEXT, finish, new_figure, set_labels

ROW = 0.3  # inches


def plot_heads(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw the accuracy of each head and, below a line, the mean of these accuracies, the best head and the model.

    The model's mark is black. ``rows`` are those of `cvrnet.scoring.head_rows`: the heads, named P1, P2 and so on, then
    the three rows below the line.

    Raises:
        UserError: There are no rows.
    """
    if not rows:
        raise UserError("no heads to draw")
    figure, (ax,) = new_figure()
    n_heads = sum(str(row["head"]).startswith("P") for row in rows)
    for y, row in enumerate(rows):
        color = TEXT if y == len(rows) - 1 else OKABE_ITO[0] if y < n_heads else GREY
        marker = "s" if y == len(rows) - 1 else "o"
        ax.errorbar(row["accuracy"], y, xerr=row["std"], color=color, marker=marker, markersize=6, capsize=3)
    ax.axvline(rows[-1]["accuracy"], color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, zorder=0)
    ax.axhline(n_heads - 0.5, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(rows)), [str(row["head"]) for row in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.margins(x=0.12)
    spread = any(row["std"] is not None for row in rows)
    set_labels(ax, "Accuracy (mean ± standard deviation over folds)" if spread else "Accuracy")
    return finish(figure, [ax], 3.7, ROW * len(rows), title)
