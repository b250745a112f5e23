"""Train only the heads, on the pooled feature maps of frozen encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from cvrnet.copies import copy_network
from cvrnet.data import Record
from cvrnet.heads import MultiScaleAveragingHead, to_probabilities
from cvrnet.inference.frozen_features import FrozenFeatures, Vectors, head_inputs
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.training.config import TrainConfig
from cvrnet.training.processes import Processes

CHUNK = 4096  # images whose vectors are in memory at once


@dataclass(eq=False)
class ViewVectors(Dataset[tuple[Tensor, Any]]):
    """The training images: each image has a vector (the pooled feature maps) for each of its views, and a label.

    Each epoch uses one view of each image: the image itself or an augmented copy. The key of an item is (epoch, index
    of the training image). Only the key and the seed determine the view.
    """

    vectors: Vectors  #: vectors of all images, (images, views, number of features)
    rows: Sequence[int]  #: the index of each training image in ``vectors``
    labels: Sequence[Any]  #: the label of each training image
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Any]:
        epoch, index = key
        views = self.vectors.shape[1]
        view = int(np.random.default_rng([self.seed, epoch, index]).integers(views)) if views > 1 else 0
        return torch.from_numpy(np.array(self.vectors[self.rows[index], view])), self.labels[index]


class StandardizedHead(nn.Module):
    """A CVR-Net's head that first standardises each feature of its input, because training is then faster.

    Args:
        head: The head.
        model: The CVR-Net of the head. Its pooled feature maps, joined to one vector for each image, are the input.
        mean, std: Mean and standard deviation of each feature of these vectors, (features,).
    """

    def __init__(self, head: Any, model: CVRNet, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.head: MultiScaleAveragingHead = head
        self.split = lambda vectors: head_inputs(
            model, vectors
        )  # a lambda, so that the model does not become a submodule
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) for N images, from their vectors (the pooled feature maps), (N, features)."""
        logits: Tensor = self.head(self.split((x - self.mean) / self.std))
        return logits

    @torch.no_grad()
    def folded(self) -> MultiScaleAveragingHead:
        """Return an equivalent head without standardisation: mean and std are folded into its first dense layers.

        ``W ((x - mean) / std) + b`` is ``(W / std) x + (b - (W / std) mean)``.
        """
        head = copy_network(self.head).eval()
        for block, (mean, std) in zip(head.blocks, self.input_statistics(), strict=True):
            dense = next(module for module in block.modules() if isinstance(module, nn.Linear))
            dense.weight.div_(std)
            dense.bias.sub_(dense.weight @ mean)
        return head

    def input_statistics(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the means and the standard deviations of the input features of each block (P1, P2, ...) of the head."""
        for mean, std in zip(self.split(self.mean[None]), self.split(self.std[None]), strict=True):
            yield mean[0], std[0]


class FrozenEncoders:
    """Trains, validates and saves the heads on frozen encoders, for `fit`; the inputs are pooled feature maps.

    Epochs are short, so model.safetensors is written only at the end; until then, the best weights are in the saved
    state (training-state.pt).
    """

    save_seconds = 5.0  #: the least time between two saved states, in seconds
    smallest_part = 1  #: the least number of images in a part of a batch; 1, because heads have no batch norm

    def __init__(
        self,
        config: TrainConfig,
        model: Any,
        train: Sequence[Record],
        labels: Sequence[Any],
        val: Sequence[Record],
        classes: Sequence[str],
        features: FrozenFeatures,
        processes: Processes,
    ) -> None:
        self.val, self.classes, self.features, self.processes = val, classes, features, processes
        self.model: Any = model
        rows = features.rows(train)
        self.items: Any = ViewVectors(features.vectors, rows, labels, config.seed)
        mean, std = mean_std(features.vectors, rows)
        self.trained = StandardizedHead(model.head, model, mean, std).to(processes.device)
        self.evaluated: Any = self.trained  #: the heads that are validated and saved
        self.best = copy_network(self.trained)
        self.network = processes.parallel(self.trained)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules whose weights are in a saved state."""
        return {"model": self.trained, "best": self.best}

    def begin_epoch(self, epoch: int) -> nn.Module:
        """Return the network that the epoch's steps call, in training mode."""
        self.network.train()
        return self.network

    def inputs(self, vectors: Tensor) -> Tensor:
        """Return the network's input: the vectors of one batch from the loader, moved to the device."""
        return vectors.to(self.processes.device, non_blocking=True)

    def validate(self) -> NDArray[np.float64]:
        """Return each head's probabilities for the validation images, (heads, images, classes)."""
        self.model.head = self.evaluated.folded()
        return predict_frozen(self.model, self.features, self.val)

    def keep_best(self, folder: Path) -> None:
        """Keep a copy of the current weights in memory, because they are the best so far; `finish` saves them."""
        self.best.load_state_dict(self.evaluated.state_dict())

    def finish(self, folder: Path) -> None:
        """Save the network with the best heads."""
        self.model.head = self.best.folded()
        save_checkpoint(self.model.cpu(), folder, self.classes)


def predict_frozen(model: CVRNet, features: FrozenFeatures, records: Sequence[Record]) -> NDArray[np.float64]:
    """Return each head's probabilities for images whose vectors are in ``features``, (heads, images, classes).

    If the model averages the logits of its heads, the heads count as one head, as in `cvrnet.inference.Predictor`.
    """
    head = model.head.eval()
    device = next(head.parameters()).device
    answers = []
    rows = features.rows(records)
    with torch.inference_mode():
        for start in range(0, len(rows), CHUNK):
            vectors = torch.from_numpy(features.vectors[rows[start : start + CHUNK], 0]).to(device)
            inputs = head_inputs(model, vectors)
            by_head = head.branch_logits(inputs) if head.average == "probabilities" else [head(inputs)]
            answers.append(to_probabilities(torch.stack(by_head).cpu().double(), model.task).numpy())
    return np.concatenate(answers, axis=1)


def mean_std(vectors: Vectors, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each feature over some images and their augmented copies.

    ``vectors`` are (images, views, features), and ``rows`` are the indices of the images to use. A standard deviation
    that is 0, apart from rounding errors, becomes 1, as in scikit-learn.
    """
    total = squares = np.zeros(vectors.shape[-1])
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    count = len(rows) * vectors.shape[1]
    for chunk in chunks:
        total = total + vectors[chunk].sum((0, 1), dtype=np.float64)
    mean = total / count
    for chunk in chunks:
        squares = squares + ((vectors[chunk] - mean) ** 2).sum((0, 1))
    std = np.sqrt(squares / count)
    std[std < 1e-8 * np.maximum(np.abs(mean), 1)] = 1
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
