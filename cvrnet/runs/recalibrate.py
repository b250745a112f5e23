"""Write a recalibration into a model's weights, so that the checkpoint stays an ordinary one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cvrnet.errors import UserError
from cvrnet.metrics.recalibration import Recalibration


def recalibrate(model: Any, recalibration: Recalibration) -> None:
    """Change the logits z of each classifier to scale * z + bias, in its weights.

    Every head of a CVR-Net has such a classifier, and so has nearly every classifier of timm.

    Raises:
        UserError: The model does not end with linear classifiers.
    """
    made = model.get_classifier()
    layers = list(made) if isinstance(made, tuple | list | nn.ModuleList) else [made]
    if not layers or not all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in layers):
        name = model.pretrained_cfg.get("architecture")
        raise UserError(f"{name} cannot be calibrated: its classifier is not a linear layer with a bias")
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(recalibration.scale)
            layer.bias.mul_(recalibration.scale).add_(torch.tensor(recalibration.bias, dtype=layer.bias.dtype))
