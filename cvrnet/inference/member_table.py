"""Predictions of every member of an ensemble, for images that are not decoded yet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import DataError, Record, to_batch
from cvrnet.inference.predictor import Predictor
from cvrnet.inference.prefetch import read_ahead


def predict_members(
    predictor: Predictor, records: Sequence[Record], batch_size: int, progress: Callable[[int, int], object]
) -> NDArray[np.float64]:
    """The probabilities by every head of every fold, (folds * heads, N, C).

    ``progress`` is called after each batch with the number of images done and the number of images.

    Raises:
        DataError: Images cannot be read, or their numbers overflow; it names all of them.
    """
    problems, tables, done = [], [], 0
    images = read_ahead((r.path for r in records), predictor.preprocessing, ahead=2 * batch_size)
    while batch := list(itertools.islice(images, batch_size)):
        readable = [(path, image) for path, image in batch if not isinstance(image, str)]
        problems += [image for _, image in batch if isinstance(image, str)]
        if readable:
            tables.append(predictor.member_probabilities(to_batch([image for _, image in readable])))
            wrong = np.isnan(tables[-1].sum((0, 1, 3)))
            problems += [f"{path}: {predictor.overflow}" for (path, _), bad in zip(readable, wrong, strict=True) if bad]
        done += len(batch)
        progress(done, len(records))
    if problems:
        raise DataError(problems, records[0].path.parent)
    table = np.concatenate(tables, axis=2)
    return table.reshape(-1, *table.shape[2:])
