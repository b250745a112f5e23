"""Local features of a picture, and which pictures share many of them.

SIFT (Lowe 2004, OpenCV) finds the same points after a crop, rotation, change of scale or contrast. For the search each
feature becomes one of a thousand words, and pictures are compared by the cosine of their weighted word counts
("Video Google", Sivic and Zisserman 2003). A mirrored picture and a negative have the same features with the parts
of the descriptor in another order, so they are searched for too, without looking at the pixels again.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

MAX_FEATURES = 220
WORDS = 1000
PER_FEATURE = 2  # words: a feature between two would otherwise fall on one side by chance
BLOCK = 512  # images

_BINS = np.arange(128).reshape(4, 4, 8)  # rows, columns, directions
VARIANTS = {
    "as it is": _BINS.ravel(),
    "mirrored": _BINS[::-1][:, :, (-np.arange(8)) % 8].ravel(),
    "negative": _BINS[::-1, ::-1].ravel(),
}
"""How the numbers of a descriptor are arranged in a copy of each kind."""


def describe(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2), x before y, and descriptors uint8 (n, 128), of at most `MAX_FEATURES` local features."""
    even = cv2.createCLAHE(2.0, (4, 4)).apply(picture)
    sift = cv2.SIFT_create(nfeatures=MAX_FEATURES, contrastThreshold=0.015, edgeThreshold=15)
    keys, descriptors = sift.detectAndCompute(even, None)
    points = np.array([key.pt for key in keys], np.float32).reshape(-1, 2)[:MAX_FEATURES]
    if descriptors is None:
        return points, np.zeros((0, 128), np.uint8)
    return points, descriptors[:MAX_FEATURES].astype(np.uint8)


def root(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors of length 1 that are compared by Hellinger's distance ("RootSIFT", Arandjelović 2012)."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(1, keepdims=True), 1))


def neighbours(
    descriptors: np.ndarray, numbers: np.ndarray, *, most: int = 4, least: float = 0.1, seed: int = 0
) -> Iterator[tuple[int, int, str]]:
    """Pairs of images that share many features, with the variant of the first that does.

    Args:
        descriptors: uint8 (N, MAX_FEATURES, 128).
        numbers: How many of them each image has, (N,).
        most: Neighbours of an image and variant.
        least: Cosine below which images are not neighbours, twice that where mirrored or negative.
        seed: Of the words.
    """
    words = _vocabulary(descriptors, numbers, seed)
    if words is None:
        return
    n = len(numbers)
    counts = np.zeros((n, len(words)), np.float32)
    for index in range(n):
        counts[index] = _count(root(descriptors[index, : numbers[index]]), words)
    rarity = np.log(n / np.maximum((counts > 0).sum(0), 1)).astype(np.float32) + 0.1
    usual = _weigh(counts, rarity).mean(0)
    _unit(np.subtract(counts, usual, out=counts))  # what all have in common tells nothing
    for name, order in VARIANTS.items():
        for first in range(0, n, BLOCK):
            block = slice(first, min(first + BLOCK, n))
            if name == "as it is":
                queries = counts[block]
            else:
                rows = [
                    _count(root(descriptors[i, : numbers[i]][:, order]), words) for i in range(block.start, block.stop)
                ]
                queries = _unit(_weigh(np.array(rows), rarity) - usual)
            cosine = queries @ counts.T
            cosine[np.arange(len(queries)), np.arange(block.start, block.stop)] = -1
            best = np.argpartition(-cosine, min(most, n) - 1, axis=1)[:, :most]
            enough = least if name == "as it is" else 2 * least  # rarer, so that chance finds would prevail
            for row, column in np.argwhere(np.take_along_axis(cosine, best, 1) >= enough):
                yield block.start + int(row), int(best[row, column]), name


def _vocabulary(descriptors: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray | None:
    """The words: features drawn at random, which serve as well here as centres of clusters and cost nothing."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(np.repeat(np.arange(len(numbers)), numbers))[:WORDS]
    if len(images) < 20:
        return None
    return root(np.array([descriptors[i, rng.integers(numbers[i])] for i in np.sort(images)]))


def _count(features: np.ndarray, words: np.ndarray) -> np.ndarray:
    near = features @ words.T - (words * words).sum(1) / 2
    total = np.zeros(len(words), np.int64)
    for _ in range(PER_FEATURE):
        nearest = near.argmax(1)
        total += np.bincount(nearest, minlength=len(words))
        near[np.arange(len(near)), nearest] = -np.inf
    return np.sqrt(total).astype(np.float32)


def _weigh(counts: np.ndarray, rarity: np.ndarray) -> np.ndarray:
    """Rare words count more; rows get length 1. In place."""
    counts *= rarity
    return _unit(counts)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1. In place."""
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows
