"""Draw ROC, precision-recall and calibration curves, from the results of `cvrnet.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from cvrnet.figures.style import (
    CROWD,
    GREY,
    MOST_CLASSES,
    TEXT,
    class_style,
    finish,
    legend_below,
    new_figure,
    set_labels,
)

SIDE = 3.7  # inches of the square axes
OVERALL: dict[str, Any] = {"color": TEXT, "linestyle": (0, (4, 2)), "linewidth": 2.0}
SOLID: dict[str, Any] = {**OVERALL, "linestyle": "solid"}
CHANCE: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 2)), "linewidth": 1.2}


def plot_roc(curves: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw the ROC curve of each class against the others, and their macro average; the legend gives each AUC.

    If there are more than 18 classes, their curves are grey, and the legend gives the range of their AUCs instead of
    each AUC. The macro average keeps its colour and its entry in the legend.

    ``curves`` are from `cvrnet.metrics.roc_curves`. If a class has no curve, the legend says "undefined".
    """
    figure, (ax,) = new_figure()
    entries = _draw_curves(ax, curves, ("fpr", "tpr"), "AUC", "auc")
    (line,) = ax.plot([0, 1], [0, 1], **CHANCE)
    legend_below(figure, [*entries, (line, "Chance (AUC 0.500)")])
    _unit_square(ax)
    set_labels(ax, "False-positive rate (1 − specificity)", "True-positive rate (sensitivity)")
    return finish(figure, [ax], SIDE, SIDE, title)


def plot_precision_recall(curves: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw the precision-recall curve of each class against the others, and their macro average; the legend gives AP.

    For each class, a dotted line in the same colour shows the class's share of the images: the precision of guessing.
    ``curves`` are from `cvrnet.metrics.precision_recall_curves`. If a class has no curve, the legend says "undefined".
    """
    figure, (ax,) = new_figure()
    entries = _draw_curves(ax, curves, ("recall", "precision"), "AP", "average_precision", drawstyle="steps-post")
    (line,) = ax.plot([], [], **CHANCE)
    legend_below(figure, [*entries, (line, "Chance (share of the class)")])
    _unit_square(ax)
    set_labels(ax, "Recall (sensitivity)", "Precision (positive predictive value)")
    return finish(figure, [ax], SIDE, SIDE, title)


def _draw_curves(
    ax: Axes, curves: Mapping[str, Any], axes: tuple[str, str], name: str, area: str, **style: Any
) -> list[tuple[Artist, str]]:
    """Draw each class's curve and the macro average; return their entries for the legend, with the area under each."""
    if len(curves["per_class"]) > MOST_CLASSES:
        entries = _draw_crowd(ax, curves["per_class"], axes, name, area, style)
    else:
        entries = _draw_classes(ax, curves["per_class"], axes, name, area, style)
    if (macro := curves["macro"]) is not None:
        (line,) = ax.plot(macro[axes[0]], macro[axes[1]], **style, **OVERALL)
        entries.append((line, f"Macro average ({_value(name, macro, area)})"))
    return entries


def _draw_classes(
    ax: Axes, curves: Mapping[str, Any], axes: tuple[str, str], name: str, area: str, style: Mapping[str, Any]
) -> list[tuple[Artist, str]]:
    entries: list[tuple[Artist, str]] = []
    for index, (label, curve) in enumerate(curves.items()):
        points = ([], []) if curve is None else (curve[axes[0]], curve[axes[1]])
        look: dict[str, Any] = {**style, **class_style(index)}
        (line,) = ax.plot(*points, **look)
        entries.append((line, f"{label} ({_value(name, curve, area)})"))
        if curve is not None and "prevalence" in curve:
            look = {**CHANCE, "color": line.get_color()}
            ax.plot([0, 1], [curve["prevalence"]] * 2, **look)
    return entries


def _draw_crowd(
    ax: Axes, curves: Mapping[str, Any], axes: tuple[str, str], name: str, area: str, style: Mapping[str, Any]
) -> list[tuple[Artist, str]]:
    """Draw the curves of many classes in grey; return one entry for the legend, with the range of their areas."""
    drawn = [curve for curve in curves.values() if curve is not None]
    lines = [ax.plot(curve[axes[0]], curve[axes[1]], **style, **CROWD)[0] for curve in drawn]
    if not lines:
        return []
    areas = [curve[area] for curve in drawn]
    undefined = f", {len(curves) - len(drawn)} undefined" if len(drawn) < len(curves) else ""
    return [(lines[0], f"{len(curves)} classes ({name} {min(areas):.3f} to {max(areas):.3f}{undefined})")]


def plot_calibration(curves: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw a reliability curve for each class, and one for the predicted class of each image.

    The latter, "Predicted class" in the legend, compares the probability of each image's predicted class with the
    accuracy. Its label also gives the expected calibration error (ECE) and the Brier score. Bars
    below show how many images are in each bin of this probability; few images make a noisy curve. ``curves`` are
    from `cvrnet.metrics.calibration_curve`.
    """
    figure, (ax, below) = new_figure(heights=(5, 1))
    (diagonal,) = ax.plot([0, 1], [0, 1], **CHANCE)
    entries: list[tuple[Artist, str]] = []
    many = len(curves["per_class"]) > MOST_CLASSES
    for index, (name, curve) in enumerate(curves["per_class"].items()):
        style: dict[str, Any] = {**class_style(index), "linewidth": 1.1, "marker": "o", "markersize": 2.5, "alpha": 0.8}
        (line,) = ax.plot(curve["predicted"], curve["observed"], **(CROWD if many else style))
        entries.append((line, name))
    if many:
        entries = [(entries[0][0], f"{len(entries)} classes")]
    top = curves["top_label"]
    (line,) = ax.plot(top["predicted"], top["observed"], marker="s", markersize=4, **SOLID)
    values = f"{_value('ECE', top, 'expected_calibration_error')}, {_value('Brier', top, 'brier_score')}"
    legend_below(figure, [*entries, (line, f"Predicted class ({values})"), (diagonal, "Perfect calibration")])
    width = top["upper"] - top["lower"]
    below.bar(top["lower"], top["count"], width, align="edge", color=GREY, edgecolor="white", linewidth=0.6)
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _unit_square(ax)
    set_labels(ax, "", "Observed frequency")
    set_labels(below, "Predicted probability", "Images")
    figure.align_ylabels()
    return finish(figure, [ax, below], SIDE, SIDE, title)


def _unit_square(ax: Axes) -> None:
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.xaxis.set_major_locator(MultipleLocator(0.2))
    ax.yaxis.set_major_locator(MultipleLocator(0.2))


def _value(name: str, curve: Mapping[str, Any] | None, key: str) -> str:
    """Return a score's name and number for a legend, with a non-breaking space between them."""
    return f"{name}\N{NO-BREAK SPACE}undefined" if curve is None else f"{name}\N{NO-BREAK SPACE}{curve[key]:.3f}"
