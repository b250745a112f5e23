"""ROC, precision-recall and calibration curves, from what `cvrnet.metrics` returns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from cvrnet.report.style import GREY, TEXT, WIDTH, class_style, label, legend, new_figure, title

MACRO: dict[str, Any] = {"color": TEXT, "linestyle": (0, (4, 2)), "linewidth": 2.0}
CHANCE: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.2}
LINE_HEIGHT = 0.19  # inches of a legend line


def plot_roc(curves: Mapping[str, Any], heading: str | None = None) -> Figure:
    """ROC curves of each class against the others and their macro average, with AUC in the legend.

    Args:
        curves: from `cvrnet.metrics.roc_curves`. A class without a curve is named in the legend as undefined.
        heading: the figure's heading.
    """
    figure, ax, names = _square(curves["per_class"], heading, others=2)
    entries: list[tuple[Artist, str]] = []
    for index, (name, curve) in enumerate(curves["per_class"].items()):
        x, y = ([], []) if curve is None else (curve["fpr"], curve["tpr"])
        (line,) = ax.plot(x, y, **class_style(index))
        entries.append((line, f"{names[name]} ({_value('AUC', curve, 'auc')})"))
    if curves["macro"] is not None:
        (line,) = ax.plot(curves["macro"]["fpr"], curves["macro"]["tpr"], **MACRO)
        entries.append((line, f"Macro average ({_value('AUC', curves['macro'], 'auc')})"))
    (line,) = ax.plot([0, 1], [0, 1], **CHANCE)
    label(ax, "False-positive rate (1 − specificity)", "True-positive rate (sensitivity)")
    _legend_below(figure, [*entries, (line, "Chance (AUC 0.500)")])
    return figure


def plot_precision_recall(curves: Mapping[str, Any], heading: str | None = None) -> Figure:
    """Precision-recall curves of each class against the others and their macro average, with AP in the legend.

    A dotted line at each class's share of the images shows the precision of guessing.

    Args:
        curves: from `cvrnet.metrics.precision_recall_curves`. A class without a curve is named as undefined.
        heading: the figure's heading.
    """
    figure, ax, names = _square(curves["per_class"], heading, others=1)
    entries: list[tuple[Artist, str]] = []
    for index, (name, curve) in enumerate(curves["per_class"].items()):
        style = class_style(index)
        x, y = ([], []) if curve is None else (curve["recall"], curve["precision"])
        (line,) = ax.plot(x, y, drawstyle="steps-post", **style)
        entries.append((line, f"{names[name]} ({_value('AP', curve, 'average_precision')})"))
        if curve is not None:
            ax.axhline(curve["prevalence"], **{**CHANCE, "color": style["color"]})
    (line,) = ax.plot(curves["macro"]["recall"], curves["macro"]["precision"], drawstyle="steps-post", **MACRO)
    entries.append((line, f"Macro average ({_value('AP', curves['macro'], 'average_precision')})"))
    label(ax, "Recall (sensitivity)", "Precision (positive predictive value)")
    _legend_below(figure, entries)
    return figure


def plot_calibration(curves: Mapping[str, Any], heading: str | None = None) -> Figure:
    """Reliability curves of each class and of the highest probability, with its expected calibration error.

    Args:
        curves: from `cvrnet.metrics.calibration_curve`.
        heading: the figure's heading.
    """
    figure, ax, names = _square(curves["per_class"], heading, others=2)
    (diagonal,) = ax.plot([0, 1], [0, 1], **CHANCE)
    entries: list[tuple[Artist, str]] = []
    for index, (name, curve) in enumerate(curves["per_class"].items()):
        (line,) = ax.plot(curve["predicted"], curve["observed"], marker="o", markersize=3, **class_style(index))
        entries.append((line, names[name]))
    top = curves["top_label"]
    (line,) = ax.plot(top["predicted"], top["observed"], marker="s", markersize=4, **MACRO)
    values = f"{_value('ECE', top, 'expected_calibration_error')}, {_value('Brier', top, 'brier_score')}"
    label(ax, "Predicted probability", "Observed frequency")
    _legend_below(figure, [*entries, (line, f"Predicted class ({values})"), (diagonal, "Perfect calibration")])
    return figure


def _square(classes: Mapping[str, Any], heading: str | None, others: int) -> tuple[Figure, Axes, dict[str, str]]:
    """Square axes from 0 to 1 with room for a legend below, and the class names in lines that fit it."""
    names = {name: textwrap.fill(name, 44) for name in classes}
    lines = others + sum(1 + text.count("\n") for text in names.values())
    figure, (ax,) = new_figure(height=WIDTH + 0.2 + LINE_HEIGHT * lines)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.set_box_aspect(1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
    title(figure, heading)
    return figure, ax, names


def _legend_below(figure: Figure, entries: list[tuple[Artist, str]]) -> None:
    legend(figure, entries, loc="outside lower center", ncols=1, handlelength=3.0)


def _value(name: str, curve: Mapping[str, Any] | None, key: str) -> str:
    return f"{name} undefined" if curve is None else f"{name} {curve[key]:.3f}"
