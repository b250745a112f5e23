"""Compute every head's logits, and how unusual the images are, in one forward pass and in the chosen number format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvrnet.copies import copy_network
from cvrnet.devices import AUTOCAST_DTYPES, autocast
from cvrnet.heads.novelty import NoveltyHead, map_sides
from cvrnet.network import CVRNet
from cvrnet.runs.float32_parts import WHOLE, float32_parts


def averages_probabilities(model: Any) -> bool:
    """Return whether a model's output is the mean of the probabilities (not the logits) of its heads."""
    has_heads = hasattr(model, "branch_logits") and bool(model.groups)
    return has_heads and getattr(getattr(model, "head", None), "average", "probabilities") == "probabilities"


class HeadLogits(nn.Module):
    """A network that returns every head's logits from one forward pass.

    A model without heads, or one that averages its heads' logits, counts as one head. With ``bf16`` or ``fp16`` the
    feature maps are computed under autocast; a CVR-Net's `float32_parts` compute in float32. The heads of a CVR-Net
    that averages their probabilities also compute in float32. For such a CVR-Net, ``novelty`` may be a `NoveltyHead`;
    the network then also returns how far the images are from the training images. The model must be in evaluation mode.
    """

    def __init__(self, model: nn.Module, precision: str = "fp32", novelty: NoveltyHead | None = None) -> None:
        super().__init__()
        self.precision, self.novelty = precision, novelty
        dtype = AUTOCAST_DTYPES.get(precision)
        self.model: Any = model if dtype is None else cast_weights(model, dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return each head's logits, and distances from the training images, for normalised images (N, C, H, W).

        The logits are float32 (heads, N, classes). The distances are (N, 1), or (N, 0) without ``novelty``.
        """
        distances = x.new_zeros((len(x), 0))
        if averages_probabilities(self.model) and isinstance(self.model, CVRNet):
            # Heads take hardly any time, so they compute in float32, without the rounding of bfloat16.
            maps = self.maps(x)
            inputs = self.model.pool_maps(maps)
            if self.novelty is not None:
                distances = self.novelty(inputs, map_sides(maps, self.model.groups)).unsqueeze(1)
            return torch.stack(self.model.head.branch_logits(inputs)), distances
        with autocast(x.device, self.precision):
            if averages_probabilities(self.model):
                return torch.stack(self.model.branch_logits(x)).float(), distances
            return self.model(x).float().unsqueeze(0), distances

    def head_inputs(self, x: Tensor) -> list[Tensor]:
        """Return the inputs of a CVR-Net's heads, in float32: the pooled maps (N, C_i), one tensor per head."""
        inputs: list[Tensor] = self.model.pool_maps(self.maps(x))
        return inputs

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of a CVR-Net's encoders, in float32, for normalised images (N, C, H, W)."""
        with autocast(x.device, self.precision):
            maps = self.model.forward_maps(x)
        return [m.float() for m in maps]


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a model, with the weights of convolutions and dense layers in `dtype`; all other tensors are shared.

    Autocast would cast these weights again in every forward pass. A CVR-Net's heads and its `float32_parts` stay in
    float32. The encoders' own lists of float32 parts were chosen by measurement on 1,552 radiographs: with these lists,
    no probability differed by more than 0.005 from that in float32; with only the heads in float32, some probabilities
    differed by up to 0.017 (docs/performance.md).
    """
    if not any(type(module) in (nn.Conv2d, nn.Linear) for part in _trunks(model) for module in part.modules()):
        return model
    twin: Any = copy_network(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for i, (part, names) in enumerate(zip(_trunks(twin), float32_parts(model) or [[]], strict=True)):
        exact = {module for name in names for module in part.get_submodule(name).modules()}
        for module in part.modules():
            # Exact types only: subclasses may transform their weights in forward.
            if type(module) in (nn.Conv2d, nn.Linear) and module not in exact:
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
        for name in filter(None, names):
            part.set_submodule(name, _InFloat32(part.get_submodule(name)))
        if WHOLE in names:
            twin.encoders[i] = _InFloat32(part)
    return twin


def _trunks(model: nn.Module) -> list[nn.Module]:
    """Return the parts that compute in the reduced format: a CVR-Net's encoders; for other models, the whole model."""
    return list(model.encoders) if isinstance(model, CVRNet) else [model]


class _InFloat32(nn.Module):
    """Wraps a submodule, which then computes in float32 even under autocast.

    The wrapper has all attributes of the submodule. Under autocast, the returned map is rounded to the reduced format,
    so that the next layers move half as much memory. The maps of a whole encoder are not rounded.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def __getattr__(self, name: str) -> Any:
        part = super().__getattr__("part")
        return part if name == "part" else getattr(part, name)

    def forward(self, x: Tensor) -> Any:
        kind = x.device.type
        rounded = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        with torch.autocast(kind, enabled=False):
            y = self.part(x.float())
        return y.to(rounded) if isinstance(y, Tensor) else y
