"""Maps as files: an overlay for each part, and a figure of all parts, whole or not at all (extra ``train``)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cvrnet.errors import UserError
from cvrnet.explain.explaining import Explanation, explain
from cvrnet.explain.figure import plot_explanation
from cvrnet.explain.overlay import THRESHOLD, draw_overlay
from cvrnet.figures import save_figure
from cvrnet.files import atomic_write
from cvrnet.inference import Predictor


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
    overwrite: bool = False,
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Draw where a model looked in each image, and give the image's row of a table.

    Args:
        predictor: The model.
        paths: The images.
        output: The folder of the pictures. They are called like the images, with their folders where names collide.
        overlays: The parts of which an overlay of the image's own size is written.
        panels: The parts that the figure shows.
        target: The class to explain; by default the predicted one.
        threshold: What is coloured.
        raw: Whether each overlay's map is written as .npy, too: float32 (H, W) in 0..1, of the image's size.
        batch_size: Images the network sees at once.
        overwrite: Whether pictures that exist are replaced.

    Yields:
        The row of an image: ``path, prediction, class, probability``, and the file names of the ``figure`` and of each
        overlay, None where nothing was drawn. And a sentence for each thing that could not be drawn.

    Raises:
        UserError: A picture exists, or as `explain`.
    """
    names = _file_names(paths)
    targets = (output / f"{name}-{_slug(part)}.png" for name in names for part in overlays)
    if not overwrite and (existing := next((file for file in targets if file.exists()), None)):
        raise UserError(f"{existing} exists; --overwrite replaces it")
    parts = list(dict.fromkeys([*panels, *overlays]))
    stream = explain(predictor, paths, target=target, parts=parts, batch_size=batch_size)
    for name, explanation in zip(names, stream, strict=True):
        row: dict[str, Any] = {"path": str(explanation.path), "prediction": explanation.prediction}
        row |= {"class": explanation.target, **dict.fromkeys(("probability", "figure", *overlays))}
        if explanation.error:
            yield row, [explanation.error]
            continue
        row |= {"probability": explanation.probability, "figure": f"{name}-figure.png"}
        save_figure(plot_explanation(explanation, panels, threshold=threshold), output / row["figure"])
        for part in overlays:
            if part not in explanation.refused:
                row[part] = f"{name}-{_slug(part)}.png"
                _save_overlay(explanation, part, output / row[part], threshold, raw)
        reasons = explanation.refused
        yield row, [f"{explanation.path}: {part}: {reasons[part]}" for part in overlays if part in reasons]


def _save_overlay(explanation: Explanation, part: str, path: Path, threshold: float, raw: bool) -> None:
    cam = explanation.map(part)
    with atomic_write(path) as temporary:
        Image.fromarray(draw_overlay(explanation.image, cam, threshold=threshold)).save(temporary, format="PNG")
    if raw:
        with atomic_write(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
            np.save(file, cam)


def _file_names(paths: Sequence[Path]) -> list[str]:
    """The path of each image below their common folder, with the suffix only where two names would be the same."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute]) if paths else ""
    below = [path.relative_to(root) for path in absolute]
    count = Counter(path.with_suffix("") for path in below)
    return [(path if count[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix() for path in below]


def _slug(part: str) -> str:
    """A part's name without the characters that file names may not have."""
    return re.sub(r"[^\w.-]+", "-", part).strip("-")
