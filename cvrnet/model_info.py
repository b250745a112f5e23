"""Measure the registered models: their parameters, multiply-adds and feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cvrnet.encoders import hub_repository, weights_on_this_machine
from cvrnet.encoders.network_size import SkipOnMeta, create_on_meta
from cvrnet.encoders.packaged_weights import weights_package
from cvrnet.errors import UserError
from cvrnet.network import CVRNet

SAME_SHAPE = {
    *(F.batch_norm, F.layer_norm),
    *(F.relu, F.hardtanh, F.hardswish, F.silu, F.gelu),
}
"""Functions whose output has the shape of their input. They have no multiply-adds, so the measurement skips them.

Without skipping, they would take half of the time of the measurement."""


@dataclass(frozen=True)
class HeadInfo:
    """One head (a fully connected block) and its input."""

    name: str  #: P1, P2, and so on, as in the papers
    maps: tuple[str, ...]  #: names of its feature maps, ``<encoder>.<module>``; several are concatenated
    channels: int  #: number of input channels
    grid: tuple[int, int]  #: height and width of its feature maps
    parameters: int  #: number of its trainable parameters


@dataclass(frozen=True)
class ModelInfo:
    """One registered model, as `describe_model` measures it."""

    name: str  #: the name for ``timm.create_model``
    description: str  #: the first line of its docstring
    encoders: tuple[str, ...]  #: names of its encoders
    input_size: tuple[int, int, int]  #: channels, height and width of the image that the model was measured on
    parameters: int  #: number of trainable parameters
    statistics: int  #: number of batch norm's running means and variances, which are not trainable parameters
    macs: int  #: multiply-accumulate operations for one image, in convolutions and matrix products: FLOPs / 2
    heads: tuple[HeadInfo, ...]  #: P1 first
    #: Where the encoders' pretrained weights are: ``here`` (on this machine), ``pip install "cvrnet[lite]"``, ``Hub``,
    #: or ``-`` (nowhere).
    pretrained: str = "-"


def describe_model(name: str, img_size: int | None = None, **options: Any) -> ModelInfo:
    """Return the description of a registered model, measured on torch's meta device (without memory or computation).

    Args:
        name: A name from :func:`cvrnet.list_models`.
        img_size: Height and width of the image, in pixels; by default those of the model's cfg.
        **options: Arguments for ``timm.create_model``, such as ``num_classes`` and ``encoders``.

    Raises:
        UserError: No CVR-Net has this name.

    The fields are explained in `ModelInfo`.

    >>> info = describe_model("cvrnet", num_classes=2)
    >>> info.parameters, info.statistics, round(info.macs / 1e9, 1)
    (48468402, 107648, 8.6)
    """
    with torch.device("meta"):
        model = create_on_meta(name, **options).eval() if timm.is_model(name) else None
    if not isinstance(model, CVRNet):
        raise UserError(f"{name!r} is not a CVR-Net; expected one of {', '.join(timm.list_models(module='cvrnet'))}")
    cfg: Any = model.default_cfg
    channels, height, width = cfg["input_size"]
    size = (channels, img_size or height, img_size or width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, SkipOnMeta(SAME_SHAPE):
        maps = model.forward_maps(torch.empty(1, *size, device="meta"))
        model.head(model.pool_maps(maps))
    heads = []
    for i, (group, width, block) in enumerate(zip(model.groups, model.widths, model.head.blocks, strict=True), 1):
        names = tuple(model.map_names[m] for m in group)
        grid = (maps[group[0]].shape[2], maps[group[0]].shape[3])
        heads.append(HeadInfo(f"P{i}", names, width, grid, _count(block)))
    return ModelInfo(
        name=name,
        description=(timm.model_entrypoint(name).__doc__ or "").partition("\n")[0],
        encoders=tuple(model.encoder_names),
        input_size=size,
        parameters=_count(model),
        statistics=sum(b.numel() for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))),
        macs=counter.get_total_flops() // 2,
        heads=tuple(heads),
        pretrained=_pretrained(model.encoder_names),
    )


def _pretrained(encoders: Sequence[str]) -> str:
    if all(map(weights_on_this_machine, encoders)):
        return "here"
    if all(packages := [weights_package(name) for name in encoders]):
        return " and ".join(dict.fromkeys(package.install for package in packages if package))
    return "Hub" if all(map(hub_repository, encoders)) else "-"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
