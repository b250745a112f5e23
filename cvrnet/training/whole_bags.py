"""Train a whole network on bags of decoded images (`cvrnet.data.studies`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from cvrnet.data import Augmentation, ImageCache
from cvrnet.data.augmentation import change
from cvrnet.data.studies import Study
from cvrnet.heads import Bags
from cvrnet.inference.study_predictor import answer_cached
from cvrnet.training.config import TrainConfig
from cvrnet.training.frozen_bags import Item, join_items
from cvrnet.training.processes import Processes
from cvrnet.training.whole_network import WholeNetwork


@dataclass(eq=False)
class BagImages(Dataset[Item]):
    """The training bags.

    A bag holds, for each of its pictures, the decoded and augmented image and the day of the picture; each bag has one
    label. The key of an item is (epoch, index of the bag). Only the key and the seed determine the augmentation; all
    images of a bag get the same augmentation. The images of a bag are uint8, (pictures, C, H, W).
    """

    studies: Sequence[Study]
    labels: Sequence[Any]
    cache: ImageCache
    augmentation: Augmentation
    seed: int

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        study = self.studies[index]
        loaded = [torch.from_numpy(self.cache.load(p.path).transpose(2, 0, 1).copy()) for p in study.pictures]
        changes = self.augmentation.draw((self.seed, epoch, index)).expand(len(loaded), -1)
        return (change(torch.stack(loaded), changes), torch.tensor(study.days, dtype=torch.float32)), self.labels[index]

    collate = staticmethod(join_items)


class BagNetwork(nn.Module):
    """A CVR-Net that trains on bags; the encoders' activations are recomputed in the backward pass to save memory."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.model.set_grad_checkpointing(True)

    def forward(self, bags: Any) -> Tensor:
        """Return the logits (N, classes) of N bags (`cvrnet.heads.Bags`).

        Here, ``bags.vectors`` are the P normalised pictures of all bags, (P, C, H, W).
        """
        inputs = self.model.pool_maps(self.model.forward_maps(bags.vectors))
        logits: Tensor = self.model.head.combine(self.model.head.bag_logits(inputs, bags.sizes, bags.days)[0])
        return logits


class WholeBags(WholeNetwork):
    """Does for bags of pictures what `WholeNetwork` does for single images."""

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        train: Sequence[Any],
        labels: Sequence[Any],
        val: Sequence[Any],
        classes: Sequence[str],
        cache: ImageCache,
        processes: Processes,
    ) -> None:
        super().__init__(config, model, train, labels, val, classes, cache, processes)
        self.items: Any = BagImages(train, labels, cache, config.augmentation, config.seed)
        self.network = processes.parallel(BagNetwork(self.trained))

    def inputs(self, bags: Any) -> Any:
        """Return the network's input for a batch from the loader: bags of normalised images on the device."""
        pixels, *rest = bags.to(self.processes.device)
        return Bags(self.normalized(pixels), *rest)

    def validate(self) -> NDArray[np.float64]:
        """Return each head's probabilities for the validation bags, (heads, bags, classes)."""
        processes, studies = self.processes, list[Any](self.val)
        where = str(processes.device), processes.precision
        return answer_cached(self.evaluated, self.cache, studies, *where, self.config.batch_size).by_head
