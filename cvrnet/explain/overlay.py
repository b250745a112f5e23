"""Draw a map on its image: colour above a threshold, and a line around the coloured area."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.errors import UserError
from cvrnet.explain.explaining import explain
from cvrnet.explain.gradcam import NETWORK
from cvrnet.inference import Predictor

THRESHOLD = 0.6  # second paper, Fig. 2
_OPACITY = 0.5
# matplotlib's viridis in 17 steps, so that drawing does not need matplotlib. Viridis is perceptually uniform, and its
# order stays visible for colour-blind readers and in grey print.
_VIRIDIS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c"
    "1f9f88 27ad81 3dbc74 5cc863 81d34d aadc32 d5e21a fde725"
)
COLOURS = np.frombuffer(bytes.fromhex(_VIRIDIS), np.uint8).reshape(17, 3).astype(np.float32)


def draw_overlay(
    image: NDArray[np.uint8], cam: NDArray[np.float32], *, threshold: float = THRESHOLD
) -> NDArray[np.uint8]:
    """Colour an image where its map is at least `threshold`, and draw a black and white line around this area.

    The colours run from violet at the threshold to yellow at 1 (viridis), at half opacity; elsewhere the image is
    unchanged. The image is uint8 (H, W) or (H, W, 3), the result uint8 (H, W, 3). The map (H, W) and the threshold are
    in 0..1.

    Raises:
        UserError: The threshold is out of range, or the map has another size than the image.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold {threshold} is not possible; expected a number from 0 to 1")
    if cam.shape != image.shape[:2]:
        raise UserError(f"a map of size {cam.shape} on an image of size {image.shape[:2]}; expected equal sizes")
    picture = as_colour(image).astype(np.float32)
    shown = cam >= threshold
    places = (cam[shown] - threshold) / max(1 - threshold, 1e-6) * (len(COLOURS) - 1)
    colours = [np.interp(places, np.arange(len(COLOURS)), channel) for channel in COLOURS.T]
    picture[shown] = (1 - _OPACITY) * picture[shown] + _OPACITY * np.stack(colours, -1).astype(np.float32)
    thickness = max(1, round(max(cam.shape) / 400))
    picture[_grow(shown, thickness) & ~shown] = 0
    picture[shown & _grow(~shown, thickness)] = 255
    return np.rint(picture).astype(np.uint8)


def draw_outline(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a copy of a picture (H, W, 3) with an orange line just outside a mask (H, W), such as that of a lesion."""
    drawn = picture.copy()
    drawn[_grow(mask, max(1, round(max(mask.shape) / 250))) & ~mask] = (230, 159, 0)  # Okabe and Ito's orange
    return drawn


def example_panels(
    predictor: Predictor, paths: Sequence[str], *, target: Sequence[str] | None = None
) -> list[NDArray[np.uint8] | str]:
    """Return small overlays of the whole network's maps, for a page that shows several images side by side.

    Returns:
        For each image, its overlay, uint8 (H, W, 3), with at most 256 pixels per side; or a sentence that says why the
        image has no overlay.
    """
    panels: list[NDArray[np.uint8] | str] = []
    for explanation in explain(predictor, paths, target=target):
        if problem := explanation.error or explanation.refused.get(NETWORK):
            panels.append(problem)
            continue
        picture = Image.fromarray(explanation.image)
        picture.thumbnail((256, 256))
        small = np.array(picture)
        panels.append(draw_overlay(small, explanation.map(size=small.shape[:2])))
    return panels


def as_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image of the shape (H, W) or (H, W, 3) to three channels; the result has the shape (H, W, 3)."""
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)


def _grow(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Dilate a mask `steps` times with the 4-neighbourhood. Written here because scipy is not a dependency."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask
