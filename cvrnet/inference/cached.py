"""Predict images that are already decoded, for validation during training and for evaluation afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageCache, Record
from cvrnet.inference.members import compute_members
from cvrnet.inference.predictor import Predictor


def predict_cached(
    predictor: Predictor,
    records: Sequence[Record],
    cache: ImageCache,
    batch_size: int = 8,
    index: int = 0,
    count: int = 1,
) -> list[tuple[int, NDArray[np.float64]]]:
    """Return, for each batch of this process, its index and each head's probabilities (heads, images, classes).

    The probabilities are averaged over the models of the predictor. Each of `count` processes takes every `count`-th
    batch; `index` is the index of this process. The number of processes changes neither the batches nor the results.
    """
    numbers = range(index, -(-len(records) // batch_size), count)
    batches = (records[number * batch_size : (number + 1) * batch_size] for number in numbers)
    images = (np.stack([cache.load(record.path) for record in batch]).transpose(0, 3, 1, 2) for batch in batches)
    members = compute_members(predictor.engine, images)
    return [(number, by_head.mean(0)) for number, (by_head, _) in zip(numbers, members, strict=True)]


def join_batches(answers: Sequence[tuple[int, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Join the predictions of all processes, in the order of the images; return an array (heads, images, classes)."""
    return np.concatenate([batch for _, batch in sorted(answers, key=lambda answer: answer[0])], axis=1)
