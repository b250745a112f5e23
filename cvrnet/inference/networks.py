"""One network as prediction runs it: number format, compilation, every head's logits from one pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cvrnet.cvrnet import CVRNet
from cvrnet.devices import AUTOCAST_DTYPES, autocast


def averages_probabilities(model: Any) -> bool:
    """Whether a model's answer is the mean of its heads' probabilities (not so if it averages their logits)."""
    head = getattr(model, "head", None)
    return hasattr(model, "branch_logits") and getattr(head, "average", "probabilities") == "probabilities"


class HeadLogits(nn.Module):
    """Every head's logits from one forward pass; a model without heads counts as one.

    With ``bf16`` or ``fp16`` the feature maps are computed under autocast; a CVR-Net's heads, and the parts that an
    encoder names in ``float32_parts``, in float32.

    Args:
        model: In evaluation mode.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, model: nn.Module, precision: str = "fp32") -> None:
        super().__init__()
        self.precision = precision
        dtype = AUTOCAST_DTYPES.get(precision)
        self.model: Any = model if dtype is None else cast_weights(model, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images, normalised, in; (heads, N, classes) float32 logits out."""
        with autocast(x.device, self.precision):
            if not averages_probabilities(self.model):
                return self.model(x).float().unsqueeze(0)
            if not isinstance(self.model, CVRNet):
                return torch.stack(self.model.branch_logits(x)).float()
            maps = self.model.forward_maps(x)
        vectors = self.model.pool_maps([m.float() for m in maps])
        return torch.stack(self.model.head.branch_logits(vectors))


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for autocast whose convolutions and dense layers hold their weights in `dtype` already.

    Autocast would cast them in every forward pass. All other tensors are shared with the model. A CVR-Net's heads and
    its encoders' ``float32_parts`` stay float32.
    """
    parts = model.encoders if isinstance(model, CVRNet) else [model]
    if not any(type(m) in (nn.Conv2d, nn.Linear) for part in parts for m in part.modules()):
        return model
    twin: Any = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    for part in twin.encoders if isinstance(twin, CVRNet) else [twin]:
        names = getattr(part, "float32_parts", ())
        exact = {module for name in names for module in part.get_submodule(name).modules()}
        for module in part.modules():
            if type(module) in (nn.Conv2d, nn.Linear) and module not in exact:  # not what calculates with its weights
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
        for name in names:
            part.set_submodule(name, _InFloat32(part.get_submodule(name)))
    return twin


class _InFloat32(nn.Module):
    """A part of a network that autocast leaves alone."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return self.part(x.float())


def compiled(network: HeadLogits, device: torch.device, mode: str | None = None) -> Any:
    """The network through ``torch.compile``; the first batch of each size takes the time of a compilation.

    Args:
        network: What to compile.
        device: Where it runs. On CPUs weights are frozen into the compiled code, which lays them out for it.
        mode: One of ``torch.compile``'s; ``"reduce-overhead"`` records CUDA graphs.
    """
    if mode is None and device.type == "cpu":
        return torch.compile(network, dynamic=False, options={"freezing": True})
    return torch.compile(network, dynamic=False, mode=mode)
