"""Choose the images of each training step, and divide them among the processes.

The images of a step do not depend on the number of processes, unless a process would get too few of them (see
`epoch_batches`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cvrnet.errors import UserError
from cvrnet.moved import moved_names
from cvrnet.training.config import TrainConfig

__getattr__ = moved_names(__name__, {"CachedImages": "cvrnet.data.cached_images"})


def epoch_batches(n: int, batch_size: int, parts: int, seed: int, epoch: int, least: int = 1) -> list[list[list[int]]]:
    """Return the batches of an epoch; each batch is a list of parts, and each part is a list of image indices.

    The indices 0 to n - 1 are shuffled and cut into batches of nearly equal size. Each batch is cut into parts of
    nearly equal size; their number, ``parts``, is the number of processes times the number of accumulation steps. Each
    part has at least ``least`` images. (``least`` is at least 1, because every process must take part in every step;
    some networks need more.) Normally, a batch has at most ``batch_size`` images. If its parts would then be too small,
    there are fewer and larger batches. The order depends only on ``n``, ``seed`` and ``epoch`` (counted from 1).

    >>> [[len(part) for part in batch] for batch in epoch_batches(9, 4, 2, seed=0, epoch=1)]
    [[2, 1], [2, 1], [2, 1]]
    >>> [[len(part) for part in batch] for batch in epoch_batches(9, 4, 2, seed=0, epoch=1, least=2)]
    [[3, 2], [2, 2]]

    Raises:
        UserError: See `check_parts`.
    """
    check_parts("batch_size", batch_size, parts, least)
    check_parts("training images", n, parts, least)
    order = np.random.default_rng([seed, epoch]).permutation(n)
    steps = min(-(-n // batch_size), n // (parts * least))
    return [[part.tolist() for part in np.array_split(batch, parts)] for batch in np.array_split(order, steps)]


def check_parts(name: str, images: int, parts: int, least: int) -> None:
    """Raise UserError if ``images``, a number of images, is less than ``parts * least``.

    ``name`` is the name of this number in the message.
    """
    if images < parts * least:
        needs = " of at least 2 images, as the network's batch norm needs" if least > 1 else ""
        raise UserError(
            f"{name}={images} cannot be divided into {parts} parts (number of processes times grad_accum){needs}; "
            f"expected at least {parts * least}"
        )


@dataclass
class Schedule:
    """The batches of an epoch, as one of the processes loads them.

    Each batch is divided among the processes. Iterating yields, for each batch, the parts of this process: one part for
    each accumulation step. A part is a list of keys (epoch, image index).

    Raises:
        UserError: See `check_parts`.
    """

    n: int  #: number of training images
    config: TrainConfig
    count: int = 1  #: number of processes
    index: int = 0  #: this process's number, counted from 0
    least: int = 1  #: the least number of images in a part of a batch
    epoch: int = 1  #: the number of the epoch, counted from 1

    def __post_init__(self) -> None:
        self.batches()  # raises UserError before training starts

    def batches(self) -> list[list[list[int]]]:
        """Return the batches, each with the parts of all processes (see `epoch_batches`)."""
        parts = self.count * self.config.grad_accum
        return epoch_batches(self.n, self.config.batch_size, parts, self.config.seed, self.epoch, self.least)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        accumulated = self.config.grad_accum
        first = self.index * accumulated
        for batch in self.batches():
            for part in batch[first : first + accumulated]:
                yield [(self.epoch, index) for index in part]


@contextmanager
def image_loader(
    images: Dataset[Any], schedule: Schedule, workers: int, pin_memory: bool = False
) -> Iterator[DataLoader[Any]]:
    """Yield a loader whose worker processes start once for all epochs, and end when the ``with`` block ends.

    With ``pin_memory``, a thread copies each batch into pinned memory, from which a GPU reads while it computes.
    """
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_sampler=schedule,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=getattr(images, "collate", None),  # data sets of bags define one, because bags differ in size
    )
    try:
        yield loader
    finally:
        # The loader ends its workers only when it is freed, and a traceback (as in a notebook) can keep it alive.
        iterator: Any = loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()
