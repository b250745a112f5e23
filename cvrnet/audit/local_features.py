"""Compute local features of pictures, and find pictures that share many of them.

SIFT (Lowe 2004, OpenCV) finds the same keypoints again after a crop, a rotation, or a change of scale or contrast, and
describes each by 128 numbers (its descriptor). For the search, each descriptor is replaced by the two nearest of a
thousand "words" (descriptors drawn at random). Pictures are compared by the cosine of their weighted word counts
("Video Google", Sivic and Zisserman 2003). In a mirrored picture or a negative, SIFT finds the same keypoints (if
mirrored, at mirrored positions), but the numbers of each descriptor are in another, known order. The search reorders
the numbers, and so finds these pictures without reading pixels again.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

MAX_FEATURES = 220
WORDS = 1000
PER_FEATURE = 2  # words that replace a feature; with one word, small changes could move a feature to another word
BLOCK = 512  # images that are compared at once
MOST, LEAST = 4, 0.1  # largest number of neighbours of each image and variant, and the least cosine to a neighbour

_BINS = np.arange(128).reshape(4, 4, 8)  # the numbers of a SIFT descriptor: 4 rows, 4 columns, 8 directions
VARIANTS = {
    "as it is": _BINS.ravel(),
    "mirrored": _BINS[::-1][:, :, (-np.arange(8)) % 8].ravel(),
    "negative": _BINS[::-1, ::-1].ravel(),
}
"""Kind of copy -> the order in which a descriptor of the copy holds the numbers of the original's descriptor."""


def describe(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find at most `MAX_FEATURES` local features of a picture, uint8 (h, w).

    Return their points (n, 2), x before y, and their descriptors, uint8 (n, 128).
    """
    # Equalise locally, so that faint structures also give features.
    even = cv2.createCLAHE(2.0, (4, 4)).apply(picture)
    sift = cv2.SIFT_create(nfeatures=MAX_FEATURES, contrastThreshold=0.015, edgeThreshold=15)
    keys, descriptors = sift.detectAndCompute(even, None)
    points = np.array([key.pt for key in keys], np.float32).reshape(-1, 2)[:MAX_FEATURES]
    if descriptors is None:
        return points, np.zeros((0, 128), np.uint8)
    return points, descriptors[:MAX_FEATURES].astype(np.uint8)


def root(descriptors: np.ndarray) -> np.ndarray:
    """Scale descriptors to sum 1 and take square roots (RootSIFT, Arandjelović 2012).

    The dot product of two results is the Hellinger kernel.
    """
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1))


def neighbours(
    descriptors: np.ndarray, numbers: np.ndarray, images: np.ndarray, *, seed: int = 0
) -> Iterator[tuple[int, int, str]]:
    """Yield pairs of images that share many features, and the variant of the first image that the second resembles.

    The descriptors are uint8 (N, MAX_FEATURES, 128). Image i has ``numbers[i]`` features, so only the first
    ``numbers[i]`` of its descriptors are used. ``images`` (M,) are the indices of the images that are compared, each
    with the other M - 1.
    """
    words = _vocabulary(descriptors, numbers, images, seed)
    if words is None:
        return
    n = len(images)
    counts = np.zeros((n, len(words)), np.float32)
    for row, i in enumerate(images):
        counts[row] = _count(root(descriptors[i, : numbers[i]]), words)
    rarity = np.log(n / np.maximum((counts > 0).sum(0), 1)).astype(np.float32) + 0.1
    counts *= rarity  # in place: the table is large
    usual = _unit(counts).mean(0)
    counts -= usual  # subtract the part that all images share
    _unit(counts)
    for name, order in VARIANTS.items():
        for first in range(0, n, BLOCK):
            rows = np.arange(first, min(first + BLOCK, n))
            if name == "as it is":
                queries = counts[rows]
            else:
                of_variant = [_count(root(descriptors[i, : numbers[i]][:, order]), words) for i in images[rows]]
                queries = _unit(_unit(np.array(of_variant) * rarity) - usual)
            cosine = queries @ counts.T
            cosine[np.arange(len(rows)), rows] = -1  # no image is its own neighbour
            best = np.argpartition(-cosine, min(MOST, n) - 1, axis=1)[:, :MOST]
            # Mirrored pictures and negatives are rare: with the lower threshold, most matches would be due to chance.
            enough = LEAST if name == "as it is" else 2 * LEAST
            for row, column in np.argwhere(np.take_along_axis(cosine, best, 1) >= enough):
                yield int(images[first + row]), int(images[best[row, column]]), name


def _vocabulary(descriptors: np.ndarray, numbers: np.ndarray, images: np.ndarray, seed: int) -> np.ndarray | None:
    """Draw features at random as the words, (words, 128); None if all images together have fewer than 20 features.

    Random features work as well as cluster centres here, and need no k-means.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(np.repeat(images, numbers[images]))[:WORDS]
    if len(drawn) < 20:
        return None
    return root(np.array([descriptors[i, rng.integers(numbers[i])] for i in np.sort(drawn)]))


def _count(features: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Count how often each word occurs in an image, and return the square roots of the counts, (words,)."""
    near = features @ words.T - (words * words).sum(1) / 2  # orders words as the Euclidean distance does
    total = np.zeros(len(words), np.int64)
    for _ in range(PER_FEATURE):
        nearest = near.argmax(1)
        total += np.bincount(nearest, minlength=len(words))
        near[np.arange(len(near)), nearest] = -np.inf
    return np.sqrt(total).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Scale the rows to length 1, in place."""
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows
