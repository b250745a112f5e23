"""Choose the images of each process in each step; the number of processes does not change a step's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvrnet.data import Augmentation, ImageCache, Record
from cvrnet.errors import UserError


def epoch_batches(n: int, batch_size: int, parts: int, seed: int, epoch: int) -> list[list[list[int]]]:
    """Cut a shuffled epoch into batches of nearly equal size, and each batch into parts of nearly equal size.

    Every index from 0 to n - 1 comes exactly once. A batch has at most `batch_size` images, or more where a smaller one
    would leave a part empty: every process must take every step. There are processes times accumulation steps parts.
    The order depends on the run's seed and the epoch (from 1). Fewer images than parts are refused.

    >>> [[len(part) for part in batch] for batch in epoch_batches(9, 4, 2, seed=0, epoch=1)]
    [[2, 1], [2, 1], [2, 1]]
    """
    if min(n, batch_size) < parts:
        raise UserError(f"{min(n, batch_size)} images a batch cannot be shared by {parts} processes or parts")
    order = np.random.default_rng([seed, epoch]).permutation(n)
    steps = min(-(-n // batch_size), n // parts)
    return [[part.tolist() for part in np.array_split(batch, parts)] for batch in np.array_split(order, steps)]


@dataclass(eq=False)
class CachedImages(Dataset[tuple[Tensor, int]]):
    """Decoded images, augmented, with their labels.

    An item is ``(image, label)``: uint8 (C, H, W), and an int. Augmentation depends on the seed, the epoch and the
    index alone, so it is the same in every process and after a resume.
    """

    records: Sequence[Record]
    classes: Sequence[str]
    cache: ImageCache
    augmentation: Augmentation
    seed: int
    epoch: int = 0

    def __post_init__(self) -> None:
        self.labels = [self.classes.index(record.label) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.cache.load(self.records[index].path).transpose(2, 0, 1).copy())
        return self.augmentation(image, seed=(self.seed, self.epoch, index)), self.labels[index]
