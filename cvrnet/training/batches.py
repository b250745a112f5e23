"""Which images each process sees in each step: the same images and steps, however many processes share them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvrnet.data import Augmentation, ImageCache, Record
from cvrnet.errors import UserError


def epoch_batches(n: int, batch_size: int, parts: int, seed: int, epoch: int) -> list[list[list[int]]]:
    """Cut a shuffled epoch into batches of nearly equal size, and each batch into parts of nearly equal size.

    Every index comes exactly once. A batch never leaves a part empty, so that every process takes every step.

    Args:
        n: Number of images.
        batch_size: Images a batch at most (more only where a smaller batch would leave a part empty).
        parts: Processes times accumulation steps.
        seed: The run's.
        epoch: From 1.

    Raises:
        UserError: Fewer images than parts.

    >>> [[len(part) for part in batch] for batch in epoch_batches(9, 4, 2, seed=0, epoch=1)]
    [[2, 1], [2, 1], [2, 1]]
    """
    if min(n, batch_size) < parts:
        raise UserError(f"{min(n, batch_size)} images a batch cannot be shared by {parts} processes or parts")
    order = np.random.default_rng([seed, epoch]).permutation(n)
    steps = min(-(-n // batch_size), n // parts)
    return [[part.tolist() for part in np.array_split(batch, parts)] for batch in np.array_split(order, steps)]


class CachedImages(Dataset[tuple[Tensor, int]]):
    """Decoded images, augmented, with their labels.

    An item is ``(image, label)``: uint8 (C, H, W), and an int. Augmentation depends on the seed, the epoch and the
    index alone, so it is the same in every process and after a resume.
    """

    def __init__(
        self,
        records: Sequence[Record],
        classes: Sequence[str],
        cache: ImageCache,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.records = records
        self.classes = classes
        self.labels = [classes.index(r.label) for r in records]
        self.cache = cache
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.cache.load(self.records[index].path).transpose(2, 0, 1).copy())
        return self.augmentation(image, seed=(self.seed, self.epoch, index)), self.labels[index]
