"""Draw risk-coverage curves: how often a model is wrong if it predicts only the images with the lowest uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from cvrnet.figures.style import class_style, finish, legend_below, new_figure, set_labels

WIDTH, HEIGHT = 4.6, 2.8  # inches of the axes


def plot_risk_coverage(curves: Mapping[str, Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draw the risk-coverage curve of each set of images.

    ``curves`` maps the name of each set to the result of `cvrnet.metrics.abstention.risk_coverage`.
    """
    figure, (ax,) = new_figure()
    entries = []
    for index, (name, curve) in enumerate(curves.items()):
        (line,) = ax.plot(curve["coverage"], curve["risk"], **class_style(index))
        entries.append((line, f"{name} (area {curve['area']:.3f})"))
    legend_below(figure, entries)
    ax.set(xlim=(0, 1), ylim=(0, None))
    set_labels(ax, "Share of images predicted, most certain first", "Share of wrong predictions")
    return finish(figure, [ax], WIDTH, HEIGHT, title)
