"""Small networks for tests whose outputs depend on their inputs, as those of trained networks do."""

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
    """A seeded CVR-Net in eval mode, made lively."""
    return network("cvrnet", encoders=encoders, num_classes=num_classes, **options)


def network(name: str, **options: Any) -> CVRNet:
    """Any registered CVR-Net, likewise."""
    torch.manual_seed(0)
    model = cvrnet.create_model(name, **options)
    assert isinstance(model, CVRNet)
    enliven(model)
    return model


def images(count: int = 2, size: tuple[int, int] = (96, 96), channels: int = 3) -> torch.Tensor:
    """Seeded images that differ in coarse structure, not in noise alone."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, size, mode="bicubic") + 0.1 * torch.randn(
        count, channels, *size, generator=generator
    )


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Batch norm's statistics from images, and weights that make logits of several units: in place, then eval mode.

    Freshly initialised networks in eval mode answer nearly the same to every image, and no test could fail on them.
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
