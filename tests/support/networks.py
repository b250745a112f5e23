"""Small networks for tests; their outputs depend on the inputs, as with trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

import cvrnet
from cvrnet.network import CVRNet

SMALL = ("test_resnet", "test_efficientnet")  # 0.4 and 0.1 million parameters, normalised differently


def small(encoders: Sequence[str] = SMALL, num_classes: int = 3, **options: Any) -> CVRNet:
    """Return a seeded CVR-Net in eval mode, changed by `enliven`."""
    return network("cvrnet", encoders=encoders, num_classes=num_classes, **options)


def network(name: str, **options: Any) -> CVRNet:
    """Return any registered CVR-Net, seeded, in eval mode, changed by `enliven`."""
    torch.manual_seed(0)
    model = cvrnet.create_model(name, **options)
    assert isinstance(model, CVRNet)
    enliven(model)
    return model


def images(count: int = 2, size: tuple[int, int] = (96, 96), channels: int = 3) -> torch.Tensor:
    """Return seeded images that differ in coarse structure, not only in noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, size, mode="bicubic") + 0.1 * torch.randn(
        count, channels, *size, generator=generator
    )


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Make a network's outputs depend on its inputs, in place, and put it into eval mode.

    Batch norm's statistics are computed from images, and the weights are scaled to logits of several units. Without
    this, new networks give nearly the same output for every image in eval mode, so tests could not fail.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.fill_(1.0)  # timm starts some at 0
        norm.momentum = None  # the plain average: exactly this batch's statistics
    model.train()
    channels = timm.data.resolve_model_data_config(model)["input_size"][0]
    model(images(4, (96, 96), channels).to(next(model.parameters())))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
    for module in getattr(model, "head", nn.Module()).modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(3.0)
