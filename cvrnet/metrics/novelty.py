"""Mark images that are far from the training images, by the distances of `cvrnet.heads.novelty`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEPS = 200  # number of equal steps from the quantile 0 to the quantile 1
FALSE_ALARMS = 0.05  #: the share of the validation images that is marked as unlike the training images


def distance_quantiles(distances: ArrayLike) -> NDArray[np.float64]:
    """Return the quantiles for `NoveltyHead`, (201,), from the distances (N,) of validation images.

    A distance above all of these is added, as in split conformal prediction. So for a new image from the same
    population as the validation images, the probability of a distance above the quantile q is about 1 - q or less, even
    if there are few validation images.
    """
    known = np.asarray(distances, np.float64)
    return np.quantile(np.append(known, 2 * known.max()), np.linspace(0, 1, STEPS + 1))


def unlike(distances: ArrayLike, quantiles: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """For each image, return what share of the validation images is nearer to the training images than it is: (N,).

    The share is the mean over F models. It is NaN if no model has distances (F is 0).

    Args:
        distances: Distance of each image from the training images of each model, (N, F).
        quantiles: The quantiles of each model's `NoveltyHead`: F arrays (Q,).

    >>> unlike([[0.0], [1.5], [9.0]], [[1.0, 2.0, 4.0]])
    array([0.  , 0.25, 1.  ])
    """
    table = np.asarray(distances, np.float64)
    if not len(quantiles):
        return np.full(len(table), np.nan)
    steps = [np.asarray(q, np.float64) for q in quantiles]
    shares = [np.interp(d, q, np.linspace(0, 1, len(q))) for d, q in zip(table.T, steps, strict=True)]
    return np.mean(shares, axis=0)


def is_marked(shares: ArrayLike) -> NDArray[np.bool_]:
    """Return whether each image is marked as unusual: its share from `unlike` is above 1 - `FALSE_ALARMS`."""
    return np.asarray(shares, np.float64) > 1 - FALSE_ALARMS
