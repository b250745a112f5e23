"""The side-by-side figure of v2 Fig. 2: input, CVR-Net, encoder 1, encoder 2 (matplotlib, extra ``train``)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from cvrnet.explain.explaining import Explanation, panel_names
from cvrnet.explain.overlay import COLOURS, THRESHOLD, as_colour, draw_outline, draw_overlay
from cvrnet.figures.style import FONT_SIZE, TEXT

PANEL = 2.3  # inches, the longer side of a panel


def plot_explanation(
    explanation: Explanation,
    parts: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    threshold: float = THRESHOLD,
    lesion: NDArray[np.bool_] | None = None,
    columns: int = 4,
) -> Figure:
    """The figure of an image: the image itself, and a panel for each part.

    Args:
        explanation: A result of `explain` with these parts.
        parts: The panels, in order. The panel of a part whose map was refused shows the reason as text.
        names: Headings of the panels; by default `panel_names`.
        title: Heading of the figure; by default the file, the class and its probability.
        threshold: What is coloured.
        lesion: Mask (H, W) to be outlined in every panel.
        columns: Panels in a row at most.
    """
    image = explanation.image
    plain = as_colour(image)
    height, width = image.shape[:2]
    columns = min(columns, len(parts) + 1)
    rows = math.ceil((len(parts) + 1) / columns)
    scale = PANEL / max(height, width)
    figure = Figure(
        figsize=(columns * (width * scale + 0.15) + 0.8, rows * (height * scale + 0.32) + 0.34),
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0, hspace=0),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.set_axis_off()
    labels = ["input", *(names or panel_names(parts))]
    for ax, name, part in zip(axes, labels, [None, *parts], strict=False):
        picture = plain
        if part in explanation.grids:
            picture = draw_overlay(image, explanation.map(part), threshold=threshold)
        elif part is not None:
            style = {"ha": "center", "va": "center", "fontsize": FONT_SIZE - 1, "color": TEXT, "parse_math": False}
            box = {"facecolor": "white", "edgecolor": TEXT, "linewidth": 0.5}
            ax.text(0.5, 0.5, textwrap.fill(explanation.refused[part], 24), transform=ax.transAxes, bbox=box, **style)
        ax.imshow(picture if lesion is None else draw_outline(picture, lesion))
        ax.set_title(name, fontsize=FONT_SIZE, color=TEXT, parse_math=False)
    colours = LinearSegmentedColormap.from_list("map", COLOURS / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(threshold, 1), colours), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label("Grad-CAM, of its maximum", fontsize=FONT_SIZE - 1, color=TEXT)
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, colors=TEXT)
    text = title or f"{explanation.path.name}: {explanation.target} {explanation.probability:.2f}"
    figure.suptitle(text, fontsize=FONT_SIZE + 1, color=TEXT, parse_math=False)
    return figure
