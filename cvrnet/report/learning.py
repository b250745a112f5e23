"""Learning curves from a run's history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvrnet.errors import UserError
from cvrnet.report.style import GREY, OKABE_ITO, finish, legend_below, new_figure, set_labels


def plot_learning_curves(
    history: Sequence[Mapping[str, Any]],
    score: str = "val_accuracy",
    best_epoch: int | None = None,
    title: str | None = None,
) -> Figure:
    """Loss of training and validation, validation score and learning rate by epoch, with the best epoch marked.

    Args:
        history: one mapping an epoch (rows of history.csv; numbers or their text) with the keys ``epoch``,
            ``train_loss``, ``val_loss``, ``lr`` and `score`.
        score: the key of the validation score.
        best_epoch: by default the epoch with the lowest validation loss.
        title: the figure's title.

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

    figure, axes = new_figure(heights=(1, 1, 1))
    top, middle, bottom = axes
    blue, vermilion, green = OKABE_ITO[:3]
    line: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 3 if len(history) <= 40 else 0}
    (training,) = top.plot(epochs, train, color=blue, **line)
    (validation,) = top.plot(epochs, val, color=vermilion, **line)
    middle.plot(epochs, scores, color=vermilion, **line)
    bottom.plot(epochs, rates, color=green, drawstyle="steps-mid", **line)
    bottom.set_yscale("log")
    entries: list[tuple[Artist, str]] = [(training, "Training"), (validation, "Validation")]
    if best is not None:
        marks = [ax.axvline(best, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1) for ax in axes]
        entries.append((marks[0], f"Best epoch ({best})"))
    legend_below(figure, entries, columns=3)
    set_labels(top, y="Loss (cross-entropy)")
    set_labels(middle, y=f"Validation {score.removeprefix('val_').replace('_', ' ')}")
    set_labels(bottom, x="Epoch", y="Learning rate")
    bottom.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    figure.align_ylabels()
    return finish(figure, axes, 4.6, 1.6, title)
