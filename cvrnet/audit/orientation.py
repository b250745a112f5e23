"""Find turned pictures and negatives, with a classifier trained on turned and inverted copies of all pictures."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GroupKFold

SIDE = 16  # height and width of the copies in pixels
FOLDS = 5
MAX_IMAGES = 3000  # maximum number of training images per fold, so that the cost grows only linearly with the data set
_TURNED = ("turned by 90°", "upside down", "turned by 270°")
WAYS = ("upright", *_TURNED, "inverted", *(f"inverted and {way}" for way in _TURNED))
"""The eight ways in which a picture can be stored: in four quarter turns, then as a negative in four quarter turns."""


def orientation_margins(pictures: np.ndarray, patients: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Find how each picture was most probably stored if not upright, and how much better this fits than upright.

    `WAYS` lists the ways in which a picture can be stored. Each way has a fit for each picture (explained below). The
    first result has the margins (n,): the fit of the best way other than upright, minus the fit of upright. The second
    result has the indices of these best ways in `WAYS`, (n,).

    ``pictures`` are (n, side, side); side is a multiple of `SIDE`. ``patients`` are (n,). Each picture gets eight
    copies, each changed in a different way. Ridge regression learns to predict in which way a copy was changed, and
    then scores the copies of patients that it was not trained on. If a picture is stored in way w, its copy changed in
    way v looks like an upright picture that was changed in way w and then in way v. So the fit of way w is a mean over
    the eight copies: for the copy changed in way v, the score of the way that results from w followed by v.

    The margin is about 2 for an inverted film, 1 for a turned film, and -1 for a correct film. It is near 0 if the
    classifier cannot distinguish the copies, for example with few pictures, or with pictures that are not radiographs.
    """
    n = len(pictures)
    copies = _copies(pictures)
    votes = np.zeros((n, 8, 8), np.float32)  # image, copy, way that it looks like
    rng = np.random.default_rng(seed)
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(pictures, groups=patients):
        train = rng.permutation(train)[:MAX_IMAGES]
        ways = np.tile(np.arange(8), len(train))
        model = RidgeClassifier(alpha=len(train)).fit(copies[train].reshape(len(ways), -1), ways)
        votes[test] = model.decision_function(copies[test].reshape(len(test) * 8, -1)).reshape(-1, 8, 8)
    looks_like = np.array([[_after(copy, way) for copy in range(8)] for way in range(8)])
    fit = votes[:, np.arange(8), looks_like].mean(2)  # image, way
    other = fit[:, 1:].argmax(1) + 1
    return fit[np.arange(n), other] - fit[:, 0], other


def _after(first: int, then: int) -> int:
    """Return the way that results from one way, followed by another; all three are indices in `WAYS`.

    >>> WAYS[_after(1, 5)], WAYS[_after(7, 5)]
    ('inverted and upside down', 'upright')
    """
    return (first // 4 ^ then // 4) * 4 + (first + then) % 4


def _copies(pictures: np.ndarray) -> np.ndarray:
    """Return the eight copies of each picture at equal brightness and contrast, float32 (n, 8, SIDE * SIDE)."""
    n, side = len(pictures), pictures.shape[1]
    step = side // SIDE
    small = pictures.reshape(n, SIDE, step, SIDE, step).mean((2, 4), dtype=np.float32)
    small -= small.mean((1, 2), keepdims=True)
    small /= np.maximum(small.std((1, 2), keepdims=True), 1)
    turned = [np.rot90(small, quarter, (1, 2)) for quarter in range(4)]
    return np.stack([*turned, *(-picture for picture in turned)], 1).reshape(n, 8, -1)
