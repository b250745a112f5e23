"""How well a map agrees with a mask, and how well it would by chance: pure functions on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEASURES = ("energy", "pointing", "iou")


def localisation(cam: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float = 0.6) -> dict[str, float]:
    r"""How much of a map lies inside a mask. The chance level of every measure is the mask's share of the image.

    - ``share``: :math:`|B| / HW`, the mask's share of the image: the energy of a map that is the same everywhere, how
      often a random point hits, and the IoU of a map that marks the whole image.
    - ``energy``: :math:`\sum_B M / \sum M`, the part of the map inside the mask (Wang et al. 2020).
    - ``pointing``: whether the map's maximum lies in the mask (the pointing game of Zhang et al. 2016, without their
      tolerance of 15 pixels); of several maxima the share that does.
    - ``iou``: intersection over union of the mask and the part of the map at or above the threshold.

    Args:
        cam: Map (H, W), not negative and not all zero.
        mask: (H, W), not empty.
        threshold: Of ``iou``.

    >>> half = np.array([[True, False]])
    >>> localisation(np.array([[1.0, 0.25]], np.float32), half)
    {'share': 0.5, 'energy': 0.8, 'pointing': 1.0, 'iou': 1.0}
    """
    shown = cam >= threshold
    return {
        "share": float(mask.mean()),
        "energy": float(cam[mask].sum(dtype=np.float64) / cam.sum(dtype=np.float64)),
        "pointing": float(mask[cam == cam.max()].mean()),
        "iou": float((shown & mask).sum() / (shown | mask).sum()),
    }
