"""Overlays and maps as files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.explain.explaining import Explanation
from cvrnet.explain.overlay import ALPHA, THRESHOLD, draw_overlay
from cvrnet.files import atomic_write


def save_overlay(
    explanation: Explanation, part: str, path: Path, *, threshold: float = THRESHOLD, alpha: float = ALPHA
) -> None:
    """The overlay of one part as PNG, at the image's own size."""
    picture = draw_overlay(explanation.image, explanation.map(part), threshold=threshold, alpha=alpha)
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def save_map(explanation: Explanation, part: str, path: Path) -> None:
    """One part's map as .npy: float32 (H, W) in 0..1, of the image's own size."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, explanation.map(part))
