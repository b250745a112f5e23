"""Draw Grad-CAM maps of images as files: an overlay for each part of the network, and a figure (extra ``train``).

The figure is like Fig. 2 of the second paper. Each file is written atomically.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from cvrnet.explain.explaining import Explanation, explain, panel_names
from cvrnet.explain.overlay import COLOURS, THRESHOLD, as_colour, draw_outline, draw_overlay
from cvrnet.figures import save_figure
from cvrnet.figures.style import FONT_SIZE, TEXT, lay_out, wrap
from cvrnet.files import atomic_write, slug
from cvrnet.inference import Predictor
from cvrnet.text import printable

PANEL = 2.3  # inches, the longer side of a panel
COLUMNS = 4  # panels in a row at most
LINE = 0.17  # inches, the height of a line of a heading


def draw_images(
    predictor: Predictor,
    paths: Sequence[Path],
    output: Path,
    *,
    overlays: Sequence[str],
    panels: Sequence[str],
    target: str | None = None,
    threshold: float = THRESHOLD,
    raw: bool = False,
    batch_size: int = 8,
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Draw where a model looked in each image, and yield the image's row of a table.

    For each image, an overlay of the image's size is drawn for each part of the network in ``overlays``, and one
    figure of the parts in ``panels``. The drawings are files in the folder ``output``. Their names start with the
    image's path, without suffix, relative to the deepest folder that contains all images. If two images differ only in
    the suffix, the names have the suffix, too. With ``raw``, each overlay's map is also written as .npy: float32 (H, W)
    in 0..1. The other arguments are those of `explain` and `draw_overlay`.

    Yields:
        For each image, its row and a list of problems. The row has ``path, prediction, class, probability``, and the
        file names of the ``figure`` and of each overlay (None if it was not drawn). If the image has no
        prediction, the list has a sentence that says why; otherwise, a sentence for each overlay that was not drawn.

    Raises:
        UserError: See `explain`.
    """
    names = _file_names(paths)
    parts = list(dict.fromkeys([*panels, *overlays]))
    stream = explain(predictor, paths, target=target, parts=parts, batch_size=batch_size)
    for name, e in zip(names, stream, strict=True):
        row: dict[str, Any] = {"path": str(e.path), "prediction": e.prediction, "class": e.target}
        row |= dict.fromkeys(("probability", "figure", *overlays))
        if e.error:
            yield row, [e.error]
            continue
        row |= {"probability": e.probability, "figure": _picture(name, "figure")}
        save_figure(plot_explanation(e, panels, threshold=threshold), output / row["figure"])
        for part in overlays:
            if part in e.grids:
                row[part] = _picture(name, part)
                save_overlay(e, part, output / row[part], threshold=threshold)
                if raw:
                    save_map(e, part, (output / row[part]).with_suffix(".npy"))
        yield row, [f"{printable(str(e.path))}: {part}: {e.refused[part]}" for part in overlays if part in e.refused]


def picture_names(paths: Sequence[Path], overlays: Sequence[str]) -> list[str]:
    """Return the names of all pictures that `draw_images` can write."""
    return [_picture(name, part) for name in _file_names(paths) for part in ("figure", *overlays)]


def _picture(name: str, part: str) -> str:
    return f"{name}-{slug(part)}.png"


def plot_explanation(
    explanation: Explanation,
    parts: Sequence[str],
    *,
    threshold: float = THRESHOLD,
    lesion: NDArray[np.bool_] | None = None,
) -> Figure:
    """Return the figure of an image: the image itself, then a panel for each part in ``parts``, in this order.

    If a part has no map, its panel shows the reason as text. ``lesion`` is a mask (H, W), outlined in every panel.
    """
    image = explanation.image
    plain = as_colour(image)
    height, width = image.shape[:2]
    longest = max(height, width)
    # A panel is at least 2:5, so that its texts have room if the image is narrow or low.
    tall, wide = max(height, 0.4 * longest), max(width, 0.4 * longest)
    columns = min(COLUMNS, len(parts) + 1)
    rows = math.ceil((len(parts) + 1) / columns)
    panel_width, panel_height = wide * PANEL / longest, tall * PANEL / longest
    figure_width = columns * (panel_width + 0.15) + 0.8
    # The layout does not wrap text, and makes the panels smaller if there are more lines than the height allows for.
    headings = [wrap(name, panel_width) for name in ("input", *panel_names(parts))]
    answer = f"{printable(explanation.path.name)}: {explanation.target} {explanation.probability:.2f}"
    title = wrap(answer, figure_width, FONT_SIZE + 1)
    row_height = panel_height + 0.16 + LINE * max(map(_lines, headings))
    figure = Figure(
        figsize=(figure_width, rows * (row_height + 0.06) + 0.24 + LINE * _lines(title)),
        layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.07, wspace=0, hspace=0),
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        ax.set_axis_off()
    for ax, name, part in zip(axes, headings, [None, *parts], strict=False):
        picture = plain
        if part in explanation.grids:
            picture = draw_overlay(image, explanation.map(part), threshold=threshold)
        elif part is not None:
            style = {"ha": "center", "va": "center", "fontsize": FONT_SIZE - 1, "color": TEXT, "parse_math": False}
            box = {"facecolor": "white", "edgecolor": TEXT, "linewidth": 0.5}
            reason = wrap(explanation.refused[part], 0.8 * panel_width, FONT_SIZE - 1)
            ax.text(0.5, 0.5, reason, transform=ax.transAxes, bbox=box, **style)
        ax.imshow(picture if lesion is None else draw_outline(picture, lesion))
        middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
        ax.set(xlim=(middle_x - wide / 2, middle_x + wide / 2), ylim=(middle_y + tall / 2, middle_y - tall / 2))
        ax.set_title(name, fontsize=FONT_SIZE, color=TEXT, parse_math=False)
    colours = LinearSegmentedColormap.from_list("map", COLOURS / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(threshold, 1), colours), ax=axes, fraction=0.03, pad=0.01)
    bar.set_label(
        wrap("Grad-CAM, share of the maximum", rows * panel_height, FONT_SIZE - 1), fontsize=FONT_SIZE - 1, color=TEXT
    )
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, colors=TEXT)
    figure.suptitle(title, fontsize=FONT_SIZE + 1, color=TEXT, parse_math=False)
    lay_out(figure)  # a first pass; saving the figure makes a second, because headings change the panels' sizes
    return figure


def _lines(text: str) -> int:
    return text.count("\n") + 1


def save_overlay(explanation: Explanation, part: str, path: Path, *, threshold: float = THRESHOLD) -> None:
    """Write the overlay of a part of the network as PNG, of the image's size; see `draw_overlay` for ``threshold``."""
    picture = draw_overlay(explanation.image, explanation.map(part), threshold=threshold)
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def save_map(explanation: Explanation, part: str, path: Path) -> None:
    """Write the map of a part of the network as .npy: float32 (H, W) in 0..1, of the image's size."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, explanation.map(part))


def _file_names(paths: Sequence[Path]) -> list[str]:
    """Return each image's path below the common folder, with the suffix only where two names would be equal."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute]) if paths else ""
    below = [path.relative_to(root) for path in absolute]
    count = Counter(path.with_suffix("") for path in below)
    return [(path if count[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix() for path in below]
