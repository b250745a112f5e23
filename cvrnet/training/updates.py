"""The optimiser's steps: gradients, the learning rate, and the average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cvrnet.training.config import TrainConfig
from cvrnet.training.optimizers import create_optimizer
from cvrnet.training.processes import Processes


class Updates:
    """Updates a model step by step; steps are counted from 1 over all epochs.

    Args:
        model: The model that is trained.
        config: The settings of training.
        processes: The device and the number format.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, processes: Processes) -> None:
        self.model = model
        self.optimizer = create_optimizer(model, config.optimizer, config.lr, config.weight_decay)
        patience = config.lr_patience - 1  # torch reduces the rate one epoch later than Keras
        rule = config.lr_factor, patience
        self.plateau = ReduceLROnPlateau(self.optimizer, "max", *rule, threshold=0.0, threshold_mode="abs")
        # fp16 gradients underflow without scaling; for the other formats the scaler does nothing.
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=processes.precision == "fp16")
        #: The average of the weights and of batch norm's statistics; None without ``ema_decay``.
        self.average = ModelEmaV3(model, config.ema_decay, use_warmup=True) if config.ema_decay else None

    @property
    def evaluated(self) -> Any:
        """The model that is validated and saved: with ``ema_decay`` the average of the weights, otherwise the model."""
        return self.model if self.average is None else self.average.module

    @property
    def parts(self) -> dict[str, Any]:
        """What is saved in a state besides the model, such as the optimiser."""
        parts = {"optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}
        return parts if self.average is None else {**parts, "average": self.average}

    @property
    def rate(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss to the accumulated gradients."""
        self.scaler.scale(loss).backward()

    def step(self, number: int) -> None:
        """Update the model with the accumulated gradients, and clear them; this is step ``number`` of the training."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model, step=number)

    def end_epoch(self, quality: float) -> None:
        """Reduce the learning rate if ``quality`` (higher is better) has not improved for ``lr_patience`` epochs."""
        self.plateau.step(quality)
