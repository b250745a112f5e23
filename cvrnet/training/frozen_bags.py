"""Train only the heads, on bags of pictures (`cvrnet.data.studies`); the encoders are frozen.

A bag holds the pictures of a study or patient, and has one label. The inputs of training are pooled feature maps, which
are computed before training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from cvrnet.copies import copy_network
from cvrnet.data.studies import Study, pictures_of
from cvrnet.heads import Bags
from cvrnet.inference.bag_features import answer_frozen, join_bags
from cvrnet.inference.frozen_features import FrozenFeatures, Vectors
from cvrnet.training.config import TrainConfig
from cvrnet.training.frozen_encoders import FrozenEncoders, StandardizedHead, mean_std
from cvrnet.training.processes import Processes

Item = tuple[tuple[Tensor, Tensor], Any]


def join_items(items: Sequence[Item]) -> tuple[Bags, Tensor]:
    """Collate bags and their labels into a batch."""
    labels: Tensor = default_collate([label for _, label in items])
    return join_bags([bag for bag, _ in items]), labels


@dataclass(eq=False)
class BagVectors(Dataset[Item]):
    """The training bags.

    A bag holds, for each of its pictures, a vector (the pooled feature maps) and the day of the picture; each bag has
    one label. Each epoch uses one view of each picture: the picture itself or an augmented copy. The key of an item is
    (epoch, index of the bag); only the key and the seed determine the views. Only the bags of a batch are in memory,
    because the vectors are in a memory-mapped file.
    """

    vectors: Vectors  #: vectors of all pictures, (pictures, views, number of features)
    rows: Sequence[Sequence[int]]  #: for each bag, the indices of its pictures in ``vectors``
    days: Sequence[Sequence[float]]  #: for each bag, the number of days from each picture to the last picture
    labels: Sequence[Any]  #: the label of each bag
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rows, views = list(self.rows[index]), self.vectors.shape[1]
        view = np.random.default_rng([self.seed, epoch, index]).integers(views, size=len(rows))
        vectors = torch.from_numpy(np.array(self.vectors[rows, view]))
        return (vectors, torch.tensor(self.days[index], dtype=torch.float32)), self.labels[index]

    collate = staticmethod(join_items)


class StandardizedBags(StandardizedHead):
    """A CVR-Net's head for bags. It first standardises each feature of its input, because training is then faster."""

    def forward(self, bags: Any) -> Tensor:
        """Return the logits (N, classes) of N bags (`cvrnet.heads.Bags`)."""
        head: Any = self.head
        inputs = self.split((bags.vectors - self.mean) / self.std)
        logits: Tensor = head.combine(head.bag_logits(inputs, bags.sizes, bags.days)[0])
        return logits

    @torch.no_grad()
    def folded(self) -> Any:
        """Return an equivalent head without standardisation: mean and std are folded into its layers and pools."""
        head: Any = super().folded()
        for pool, mean, std in zip(head.pools, self.split(self.mean[None]), self.split(self.std[None]), strict=True):
            pool.fold(mean[0], std[0])
        return head

    def input_statistics(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the means and the standard deviations of the input features of each block (P1, P2, ...) of the head.

        With ``time`` (see `cvrnet.heads.pooling.BagPool`), the input has the features and their changes over time. For
        the changes, the mean is set to 0, and the standard deviation to the standard deviation of the features.
        """
        head: Any = self.head
        for mean, std in super().input_statistics():
            yield (torch.cat([mean, 0 * mean]), torch.cat([std, std])) if head.time else (mean, std)


class FrozenBags(FrozenEncoders):
    """Does for bags of pictures what `FrozenEncoders` does for single images."""

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        train: Sequence[Any],
        labels: Sequence[Any],
        val: Sequence[Any],
        classes: Sequence[str],
        features: FrozenFeatures,
        processes: Processes,
    ) -> None:
        self.val: Sequence[Study] = val
        self.classes, self.features, self.processes, self.model = classes, features, processes, model
        rows = [features.rows(study.pictures) for study in train]
        self.items: Any = BagVectors(features.vectors, rows, [study.days for study in train], labels, config.seed)
        mean, std = mean_std(features.vectors, features.rows(pictures_of(train)))
        self.trained = StandardizedBags(model.head, model, mean, std).to(processes.device)
        self.evaluated = self.trained
        self.best = copy_network(self.trained)
        self.network = processes.parallel(self.trained)

    def inputs(self, bags: Any) -> Any:
        """Return the network's input: the bags of one batch from the loader, moved to the device."""
        return bags.to(self.processes.device)

    def validate(self) -> NDArray[np.float64]:
        """Return each head's probabilities for the validation bags, (heads, bags, classes)."""
        self.model.head = self.evaluated.folded()
        return answer_frozen(self.model, self.features, self.val).by_head
