"""Train a whole network on decoded images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cvrnet.data import ImageCache, Preprocessing, Record
from cvrnet.data.augmentation import change
from cvrnet.data.cached_images import CachedImages
from cvrnet.inference import Predictor
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.training.config import TrainConfig
from cvrnet.training.model import smallest_part
from cvrnet.training.processes import Processes


class WholeNetwork:
    """Trains, validates and saves a whole network for `fit`; the inputs are augmented images.

    If ``config.freeze`` is a number N, only the heads train in the first N epochs: the encoders' parameters and batch
    norm statistics do not change.
    """

    save_seconds = 0.0  #: the least time between two saved states, in seconds; 0: every epoch is saved

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        train: Sequence[Record],
        labels: Sequence[Any],
        val: Sequence[Record],
        classes: Sequence[str],
        cache: ImageCache,
        processes: Processes,
    ) -> None:
        self.config, self.val, self.classes, self.cache, self.processes = config, val, classes, cache, processes
        self.smallest_part = smallest_part(model, config)  #: the least number of images in a part of a batch
        self.trained: Any = model.to(processes.device).to(memory_format=torch.channels_last)
        if config.compile:
            self.trained.compile()
        self.evaluated = self.trained  #: the model that is validated and saved
        self.preprocessing = Preprocessing.from_model(model)
        self.items: Any = CachedImages(train, labels, cache, config.augmentation, config.seed)
        self.network = processes.parallel(self.trained)
        self.frozen = False

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules whose weights are in a saved state."""
        return {"model": self.trained}

    def begin_epoch(self, epoch: int) -> nn.Module:
        """Prepare the network for an epoch, and return it, in training mode."""
        if self.config.freeze:
            self._freeze(epoch <= int(self.config.freeze))
        self.network.train()
        if self.frozen:
            self.trained.encoders.eval()  # so that the statistics of batch norm do not change
        return self.network

    def _freeze(self, frozen: bool) -> None:
        """Exclude the encoders from training, or include them again."""
        if frozen != self.frozen:
            self.frozen = frozen
            self.trained.encoders.requires_grad_(not frozen)
            # DDP looks up which parameters need gradients only when it is created, so the model is wrapped again.
            self.network = self.processes.parallel(self.trained)

    def inputs(self, batch: Sequence[Tensor]) -> Tensor:
        """Return the network's input for a batch of `CachedImages`: augmented and normalised, on the device."""
        pixels, changes = batch
        return self.normalized(change(pixels.to(self.processes.device, non_blocking=True), changes))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 images on the device, and return them in the network's memory layout."""
        return self.preprocessing.normalize(pixels).contiguous(memory_format=torch.channels_last)

    def validate(self) -> NDArray[np.float64]:
        """Return each head's probabilities for the validation images, (heads, images, classes).

        Validation uses the same number format as prediction, and keeps the same parts of the network in float32 (see
        `HeadLogits`).
        """
        processes = self.processes
        predictor = Predictor([self.evaluated], str(processes.device), processes.precision)
        answers = predict_cached(
            predictor, self.val, self.cache, self.config.batch_size, processes.index, processes.count
        )
        return join_batches(processes.gather(answers))

    def keep_best(self, folder: Path) -> None:
        """Save the current weights, because they are the best so far."""
        save_checkpoint(self.evaluated, folder, self.classes)

    def finish(self, folder: Path) -> None:
        """Do nothing: the best weights are already in the folder."""
