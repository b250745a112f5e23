"""Learning curves from a run's history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvrnet.errors import UserError
from cvrnet.report.style import GREY, OKABE_ITO, label, legend, new_figure, title


def plot_learning_curves(
    history: Sequence[Mapping[str, Any]],
    score: str = "val_accuracy",
    best_epoch: int | None = None,
    heading: str | None = None,
) -> Figure:
    """Loss of training and validation, validation score and learning rate by epoch, with the best epoch marked.

    Args:
        history: one mapping an epoch (rows of history.csv; numbers or their text) with the keys ``epoch``,
            ``train_loss``, ``val_loss``, ``lr`` and `score`.
        score: the key of the validation score.
        best_epoch: by default the epoch with the lowest validation loss.
        heading: the figure's heading.

    Raises:
        UserError: no rows, or a key is missing.
    """
    keys = ("epoch", "train_loss", "val_loss", score, "lr")
    if not history:
        raise UserError("no epochs to draw")
    missing = [key for key in keys if key not in history[0]]
    if missing:
        raise UserError(f"history without {', '.join(missing)}: expected {', '.join(keys)}")
    epochs, train, val, scores, rates = ([float(row[key]) for row in history] for key in keys)
    finite = [(loss, epoch) for loss, epoch in zip(val, epochs, strict=True) if math.isfinite(loss)]
    best = best_epoch if best_epoch is not None else (int(min(finite)[1]) if finite else None)

    figure, (top, middle, bottom) = new_figure(rows=3, width=5.5, height=6.0)
    blue, vermilion, green = OKABE_ITO[:3]
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(history) <= 40 else {}
    (line_train,) = top.plot(epochs, train, color=blue, linewidth=1.6, **marker)
    (line_val,) = top.plot(epochs, val, color=vermilion, linewidth=1.6, **marker)
    middle.plot(epochs, scores, color=vermilion, linewidth=1.6, **marker)
    bottom.step(epochs, rates, color=green, linewidth=1.6, where="mid")
    if min(rates) > 0:
        bottom.set_yscale("log")
    entries: list[tuple[Artist, str]] = [(line_train, "Training"), (line_val, "Validation")]
    if best is not None:
        marks = [
            ax.axvline(best, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1) for ax in (top, middle, bottom)
        ]
        entries.append((marks[0], f"Best epoch ({best})"))
    legend(figure, entries, loc="outside upper center", ncols=3)
    label(top, y="Loss (cross-entropy)")
    label(middle, y=f"Validation {score.removeprefix('val_').replace('_', ' ')}")
    label(bottom, x="Epoch", y="Learning rate")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    title(figure, heading)
    return figure
