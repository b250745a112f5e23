"""The training images as a PyTorch `Dataset`.

Each spawned loader process (Windows, macOS) imports the module of its `Dataset`. So this module is not in
`cvrnet.training`, because that package imports timm and scikit-learn, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cvrnet.data.augmentation import Augmentation
from cvrnet.data.cache import ImageCache
from cvrnet.data.record import Record


@dataclass(eq=False)
class CachedImages(Dataset[tuple[tuple[Tensor, Tensor], Any]]):
    """A dataset of decoded images, with their labels and with the random changes that augment the images.

    The key of an item is (epoch, index), so that loader processes get the epoch with each key. An item is
    ``((image, changes), label)``: the image is uint8 (C, H, W), the changes are from `Augmentation.draw`, the label is
    from ``labels``. The changes depend only on the seed and the key, so they are the same in every process and after a
    resume. `WholeNetwork.inputs` applies the changes to a whole batch on the training device, because a CPU core
    augments more slowly than a large GPU trains.
    """

    records: Sequence[Record]
    labels: Sequence[Any]
    cache: ImageCache
    augmentation: Augmentation
    seed: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> tuple[tuple[Tensor, Tensor], Any]:
        epoch, index = key
        image = torch.from_numpy(self.cache.load(self.records[index].path).transpose(2, 0, 1).copy())
        return (image, self.augmentation.draw((self.seed, epoch, index))), self.labels[index]
