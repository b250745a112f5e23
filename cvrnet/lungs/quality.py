"""Measure how well two masks agree: Dice score and Hausdorff distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

MEASURES = ("dice", "hausdorff", "hausdorff95")


def mask_quality(found: NDArray[np.bool_], given: NDArray[np.bool_]) -> dict[str, float]:
    r"""Return the Dice score of two masks (H, W), and their Hausdorff distance in pixels.

    - ``dice``: :math:`2 |A \cap B| / (|A| + |B|)`, which is the F1 score of the pixels (Dice 1945).
    - ``hausdorff``: the largest distance from a pixel of one outline to the other outline (Huttenlocher et al. 1993).
    - ``hausdorff95``: the 95th percentile of the distances from the pixels of one outline to the other outline. It is
      computed in both directions, and the larger percentile counts. A few stray pixels do not change it.

    Distances are NaN if either mask is empty; Dice of two empty masks is 1.

    >>> a, b = np.zeros((2, 8, 8), bool)
    >>> a[2:6, 2:6] = b[2:6, 3:7] = True
    >>> mask_quality(a, b)
    {'dice': 0.75, 'hausdorff': 1.0, 'hausdorff95': 1.0}
    """
    total = int(found.sum()) + int(given.sum())
    dice = 2 * float((found & given).sum()) / total if total else 1.0
    if not (found.any() and given.any()):
        return {"dice": dice, "hausdorff": float("nan"), "hausdorff95": float("nan")}
    one, other = _outline(found), _outline(given)
    away = [KDTree(b).query(a)[0] for a, b in ((one, other), (other, one))]
    return {
        "dice": dice,
        "hausdorff": float(max(d.max() for d in away)),
        "hausdorff95": float(max(np.percentile(d, 95) for d in away)),
    }


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the pixels (n, 2) of a mask that have a neighbour outside the mask or beyond the picture's edge."""
    return np.argwhere(mask & ~binary_erosion(mask))
