"""Draw decision curves, from the results of `cvrnet.metrics.decision_curves`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from cvrnet.figures.style import (
    CROWD,
    GREY,
    MOST_CLASSES,
    class_style,
    finish,
    legend_below,
    new_figure,
    set_labels,
)

WIDTH, HEIGHT = 4.6, 3.2  # inches of the axes
BELOW = 0.05  # how far the y axis reaches below zero; a curve below zero only shows that acting on no image is better
ALL: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 1.2}


def plot_decision_curves(curves: Mapping[str, Any], title: str | None = None) -> Figure:
    """Draw decision curves: for each class, the net benefit of acting on the images that the model selects.

    A dotted curve shows the net benefit of acting on all images, and a line at 0 that of acting on no image. If there
    are more than 18 classes, all curves are grey, and the dotted curves are left out. ``curves`` are from
    `cvrnet.metrics.decision_curves`.
    """
    figure, (ax,) = new_figure()
    drawn = {name: curve for name, curve in curves["per_class"].items() if curve is not None}
    entries: list[tuple[Artist, str]] = []
    if len(curves["per_class"]) > MOST_CLASSES:
        lines = [ax.plot(curve["threshold"], curve["net_benefit"], **CROWD)[0] for curve in drawn.values()]
        entries = [(lines[0], f"{len(lines)} classes")]
    else:
        for index, name in enumerate(curves["per_class"]):
            if name in drawn:
                curve = drawn[name]
                (line,) = ax.plot(curve["threshold"], curve["net_benefit"], **class_style(index))
                ax.plot(curve["threshold"], curve["treat_all"], color=line.get_color(), **ALL)
                entries.append((line, f"Act on {name} by the model"))
        (line,) = ax.plot([], [], color=GREY, **ALL)
        entries.append((line, "Act on all images (in the class's colour)"))
    line = ax.axhline(0, color=GREY, linewidth=1.2)
    legend_below(figure, [*entries, (line, "Act on no image")])
    top = max(float(curve["net_benefit"].max()) for curve in drawn.values())
    ax.set(xlim=(0, 1), ylim=(-BELOW, max(top * 1.05, BELOW)))
    set_labels(ax, "Threshold probability", "Net benefit (true positives per image)")
    return finish(figure, [ax], WIDTH, HEIGHT, title)
