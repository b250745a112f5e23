"""Draw learning curves from a run's history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cvrnet.errors import UserError
from cvrnet.figures.style import GREY, OKABE_ITO, class_style, finish, legend_below, new_figure, set_labels


def plot_learning_curves(
    history: Sequence[Mapping[str, Any]], score: str = "val_accuracy", title: str | None = None
) -> Figure:
    """Draw training and validation loss, validation score and learning rate by epoch, and mark the best epoch.

    ``score`` is the key of the validation score. ``history`` has one mapping per epoch, such as a row of history.csv,
    with the keys ``epoch``, ``train_loss``, ``val_loss``, ``lr`` and the key of the score. The values are numbers, or
    texts as read from the file. `best_row` says which epoch is best.

    Raises:
        UserError: There are no rows, or a key is missing.
    """
    keys = ("epoch", "train_loss", "val_loss", score, "lr")
    _check(history, keys)
    epochs, train, val, scores, rates = ([float(row[key]) for row in history] for key in keys)
    kept = best_row(history)

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
    if kept is not None:
        best = int(float(kept["epoch"]))
        marks = [ax.axvline(best, color=GREY, linestyle=(0, (4, 2)), linewidth=1.2, zorder=1) for ax in axes]
        entries.append((marks[0], f"Best epoch ({best})"))
    legend_below(figure, entries, columns=3)
    set_labels(top, y="Loss (cross-entropy)")
    set_labels(middle, y=f"Validation {_name(score)}")
    set_labels(bottom, x="Epoch", y="Learning rate")
    return _finish(figure, axes, epochs[0], epochs[-1], title)


def plot_fold_learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], score: str = "val_accuracy", title: str | None = None
) -> Figure:
    """Draw training loss, validation loss and validation score by epoch, for all folds of a cross-validation.

    ``histories`` maps each fold's name to its history (see `plot_learning_curves`). A dot marks each fold's best epoch
    (see `best_row`).

    Raises:
        UserError: There are no folds or no rows, or a key is missing.
    """
    keys = ("train_loss", "val_loss", score)
    if not histories:
        raise UserError("no folds to draw")
    for history in histories.values():
        _check(history, ("epoch", *keys))
    figure, axes = new_figure(heights=(1, 1, 1))
    entries: list[tuple[Artist, str]] = []
    longest = 1.0
    for index, (name, history) in enumerate(histories.items()):
        epochs = [float(row["epoch"]) for row in history]
        longest = max(longest, epochs[-1])
        best = best_row(history)
        for ax, key in zip(axes, keys, strict=True):
            style: dict[str, Any] = {**class_style(index), "linewidth": 1.3}
            (line,) = ax.plot(epochs, [float(row[key]) for row in history], **style)
            if best is not None:
                ax.plot(float(best["epoch"]), float(best[key]), "o", color=style["color"], markersize=5)
        entries.append((line, name))
    (dot,) = axes[0].plot([], [], "o", color=GREY, markersize=5)
    legend_below(figure, [*entries, (dot, "Best epoch")], columns=3)
    limits = [ax.get_ylim() for ax in axes[:2]]
    for ax in axes[:2]:  # one scale for both losses
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    set_labels(axes[0], y="Training loss\n(cross-entropy)")
    set_labels(axes[1], y="Validation loss\n(cross-entropy)")
    set_labels(axes[2], x="Epoch", y=f"Validation\n{_name(score)}")
    return _finish(figure, axes, 1, longest, title)


def _finish(figure: Figure, axes: Sequence[Axes], first: float, last: float, title: str | None) -> Figure:
    """Set the limits and ticks of the epochs, and the figure's size."""
    bottom = axes[-1]
    bottom.set_xlim(first - 0.5, last + 0.5)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    figure.align_ylabels()
    return finish(figure, axes, 4.6, 1.6, title)


def best_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row of the best epoch: the last row marked ``best``, otherwise the row of the lowest validation loss.

    Losses that are not finite are ignored. If no row is marked and no loss is finite, the result is None.
    """
    called = [row for row in history if str(row.get("best", "")) in ("1", "True")]
    if called:
        return called[-1]
    finite = [row for row in history if math.isfinite(float(row["val_loss"]))]
    return min(finite, key=lambda row: float(row["val_loss"])) if finite else None


def _check(history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    if not history:
        raise UserError("no epochs to draw")
    missing = [key for key in keys if key not in history[0]]
    if missing:
        raise UserError(f"history lacks {', '.join(missing)}; expected the columns {', '.join(keys)}")


def _name(score: str) -> str:
    return score.removeprefix("val_").replace("roc_auc", "AUC").replace("_", " ")
