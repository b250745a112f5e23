"""Compare models: their scores in each fold, and their differences from a reference model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cvrnet.figures.style import GREY, OKABE_ITO, finish, legend_below, new_figure, set_labels

ROW = 0.34  # inches per model


def plot_comparison(result: Mapping[str, Any], score: str = "balanced_accuracy", title: str | None = None) -> Figure:
    """Draw each model's scores in the folds, their mean, and the difference from the reference with a 95 % interval.

    ``result`` is what `cvrnet.workflows.benchmark` returns. ``score`` is the key of a score in it.
    """
    figure, (scores, differences) = new_figure(columns=2)
    models = result["models"]
    name = "AUC, macro" if score == "auc_macro" else score.replace("_", " ").capitalize()
    rows = np.arange(len(models))
    entries: dict[str, Any] = {}
    for row, model in zip(rows, models.values(), strict=True):
        values = [value for value in model["folds"][score] if value is not None]
        faint: dict[str, Any] = {"color": OKABE_ITO[0], "markersize": 5, "markeredgewidth": 0, "alpha": 0.45}
        (entries["A fold"],) = scores.plot(values, [row] * len(values), "o", **faint)
        (entries["Mean of the folds"],) = scores.plot(np.mean(values), row, "D", color=OKABE_ITO[0], markersize=6)
        if "independent" in model and model["independent"][score]["mean"] is not None:
            outside = model["independent"][score]["mean"]
            (entries[f"Mean on {result['independent']}"],) = scores.plot(
                outside, row, "s", markerfacecolor="white", markeredgecolor=OKABE_ITO[1], markersize=6
            )
        test = model.get("difference", {}).get(score)
        if test is not None:
            reach = [[test["mean"] - test["low"]], [test["high"] - test["mean"]]]
            entries["Difference, 95 % interval"] = differences.errorbar(
                test["mean"], row, xerr=reach, fmt="D", color=OKABE_ITO[2], markersize=5, capsize=3, linewidth=1.4
            )
        else:
            differences.plot(0, row, "|", color=GREY, markersize=9)
    differences.axvline(0, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    scores.set_ylim(len(models) - 0.5, -0.5)  # the first model on top; both axes share the y axis
    scores.set_yticks(rows, list(models), parse_math=False)
    differences.tick_params(axis="y", length=0, labelleft=False)
    legend_below(figure, [(artist, text) for text, artist in entries.items()], columns=2)
    set_labels(scores, name)
    set_labels(differences, f"{name}: difference from {result['reference']}")
    return finish(figure, [scores], 3.2, max(1.4, ROW * len(models)), title)
