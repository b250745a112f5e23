"""Lay out the weights of convolutions for the processor once, instead of in each forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvrnet.devices import has_bf16


class PackedConv2d(nn.Module):
    """A convolution on the CPU whose weights are kept in oneDNN's blocked layout; for prediction only.

    The forward pass calls the operator that ``torch.compile`` uses on a CPU. The layout is chosen at the first forward
    pass for the size of that input; later inputs may have other sizes.

    Args:
        conv: The convolution; its weight is copied at the first forward pass.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight: Tensor | None = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.dtype, self.packed = conv.weight.dtype, torch.empty(0)
        padding: Any = conv.padding
        self.settings = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a tensor (N, C, H, W); the result has the weights' number format and is in channels_last."""
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        if self.weight is not None:
            weight, size = self.weight.to_mkldnn(), list(x.shape)
            pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its type hint lacks the size
            self.packed, self.weight = pack(weight, *self.settings, size), None
        pointwise = torch.ops.mkldnn._convolution_pointwise
        y: Tensor = pointwise(x, self.packed, self.bias, *self.settings, "none", [], "")
        return y


def pack_convolutions(model: nn.Module) -> None:
    """Replace the convolutions of a model on the CPU by `PackedConv2d`, where oneDNN can compute them."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
        return
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if type(part) is nn.Conv2d and _can_pack(part):
                setattr(module, name, PackedConv2d(part))


def _can_pack(conv: nn.Conv2d) -> bool:
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    exact = conv.weight.dtype == torch.float32
    return plain and (exact or (conv.weight.dtype == torch.bfloat16 and has_bf16(torch.device("cpu"))))
