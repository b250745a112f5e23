"""Compute the probabilities of every member of an ensemble; each head of each fold is a member."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.task import probabilities

Members = tuple[NDArray[np.float64], NDArray[np.float64]]


def compute_members(engine: Any, batches: Iterable[NDArray[np.uint8]], size: int = 0) -> Iterator[Members]:
    """Yield, for each batch, the probabilities of each member, and the distances from the training images.

    Probabilities are (folds, heads, N, classes). Distances are (N, folds), or (N, 0) if the models have no novelty head
    (`cvrnet.heads.novelty`). A batch may be empty. A GPU computes a batch while the next batch is loaded.

    Args:
        engine: One of `TorchEngine`, `ConvertedEngine` or `cvrnet.onnx.session.OnnxEngine`.
        batches: Images, uint8 (N, C, H, W), in the size of the preprocessing.
        size: Number of images in a full batch (see `TorchEngine.__call__`).

    Raises:
        UserError: The network gives a wrong number of classes, or its output is not finite even for a uniformly grey
            image.
    """
    waiting: deque[tuple[NDArray[np.uint8], Callable[[], Members]]] = deque()
    for images in batches:
        waiting.append((images, _start(engine, images, size)))
        if len(waiting) > engine.ahead:
            yield _finish(engine, *waiting.popleft(), size)
    for images, wait in waiting:
        yield _finish(engine, images, wait, size)


def _start(engine: Any, images: NDArray[np.uint8], size: int) -> Callable[[], Members]:
    if len(images):
        start: Callable[[], Members] = engine.start(images, size)
        return start
    return lambda: (np.zeros((1, 1, 0, len(engine.classes))), np.zeros((0, len(engine.quantiles))))


def _finish(engine: Any, images: NDArray[np.uint8], wait: Callable[[], Members], size: int) -> Members:
    """Wait for a batch's logits, check them, and turn them into probabilities."""
    logits, distances = wait()
    if logits.shape[2:] != (len(images), len(engine.classes)):
        raise UserError(
            f"{engine.name} returns logits of shape {tuple(logits.shape[2:])} for {len(images)} images; "
            f"expected a logit for each image and each of the {len(engine.classes)} classes"
        )
    # In float64, so that rounding does not matter in the means over the members and in the entropies.
    found = probabilities(logits, engine.task)
    if not np.isfinite(found).all():
        grey, _ = engine(np.full_like(images, 128), size)
        if not np.isfinite(grey).all():
            reduced = "" if engine.precision == "fp32" else f", or its numbers overflow in {engine.precision}: try fp32"
            raise UserError(
                f"{engine.name} predicts NaN for every image, even for a uniformly grey image: "
                f"its weights, mean or std are not finite{reduced}"
            )
    return found, distances
