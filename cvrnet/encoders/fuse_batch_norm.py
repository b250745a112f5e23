"""Fold each batch norm into the convolution before it, which saves passes over the feature maps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.models import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FUSED = "batch_norm_is_folded"
"""A model that `fuse_batch_norm` changed has this attribute, because its config no longer describes the model."""
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_log = logging.getLogger(__name__)


def fuse_batch_norm(model: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it, in place, if nothing else uses the convolution's output.

    In evaluation mode, batch norm is the affine map ``(x - mean) / sqrt(var + eps) * weight + bias``. The convolution
    can apply this map with other weights (Jacob et al., CVPR 2018, section 3.2). Outputs differ only by rounding.
    The model can still be differentiated, but not be trained further or saved.

    The pairs of convolution and batch norm are found in a graph that ``torch.fx`` traces: one graph for the network or,
    in a CVR-Net, one for each encoder. A network or encoder that cannot be traced, or is in training mode, stays as it
    is.
    """
    parts: Any = getattr(model, "encoders", [model])
    for part in parts:
        for convolution, norm in list(_pairs(part)):
            _fold(part, convolution, norm)
            setattr(model, FUSED, True)
    return model


class _Tracer(fx.Tracer):
    """A tracer that does not trace into batch norms and modules that timm marks as untraceable."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_NORMS, *get_notrace_modules())) or super().is_leaf_module(m, module_qualified_name)


def _pairs(part: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution and of the batch norm right after it, if both are called only once."""
    if part.training or not any(isinstance(m, _NORMS) for m in part.modules()):
        return
    try:
        graph = _Tracer().trace(part)
    except Exception as error:  # noqa: BLE001  # the network's own code runs on placeholders, and may raise anything
        _log.info("%s: batch norm is not folded, because the network cannot be traced: %s", type(part).__name__, error)
        return
    modules = dict(part.named_modules())
    registered = Counter(id(m) for _, m in part.named_modules(remove_duplicate=False))
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 and not node.kwargs else None
        # Nothing else may use the convolution's output, since folding changes it.
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = str(before.target), str(node.target)
        convolution, norm = (modules[name] for name in names)
        # Exact types only: subclasses may compute differently.
        fits = type(convolution) in _CONVOLUTIONS and type(norm) in _NORMS and norm.running_var is not None
        if fits and all(calls[name] == 1 and registered[id(modules[name])] == 1 for name in names):
            yield names


@torch.no_grad()
def _fold(part: nn.Module, convolution: str, norm: str) -> None:
    conv: Any = part.get_submodule(convolution)
    bn: Any = part.get_submodule(norm)
    statistics = bn.running_mean, bn.running_var, bn.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, bn.weight, bn.bias)
    rest = nn.Sequential(bn.drop, bn.act) if isinstance(bn, BatchNormAct2d) else nn.Identity()
    part.set_submodule(norm, rest.eval())
