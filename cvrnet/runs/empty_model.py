"""Create a network on PyTorch's meta device, which needs no memory, and fill it from a file of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cvrnet.encoders.network_size import limited_size

_PORTION = 64 * 2**20  # bytes that are copied before the file is closed and opened again
_REGISTERED = ("_parameters", "_buffers", "_modules")


def create_empty(folder: Path) -> nn.Module | None:
    """Create, on the meta device, the network that config.json in a folder describes; None if that is not possible."""
    tries: list[dict[str, Any]] = [{"device": "meta"}, {}]
    for options in tries:
        try:
            with limited_size(), torch.device("meta"):
                return timm.create_model(f"local-dir:{folder}", **options)
        except TypeError:  # the model may not accept the argument ``device``
            if not options:
                raise
        except RuntimeError as error:
            if "meta" not in str(error):
                raise
            break  # the model computes with its initial weights, but tensors on the meta device have no values
    return None


def can_be_filled(model: nn.Module) -> bool:
    """Return whether `fill` can set all tensors of a network on the meta device.

    `fill` cannot set all tensors if parts of the network share weights, or if a tensor is neither in the state dict nor
    set by the method ``init_non_persistent_buffers``.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in tensors}) < len(tensors):
        return False  # loading would turn shared weights into separate weights
    saved = model.state_dict().keys()
    for prefix, module in model.named_modules():
        computed = [name for name, _ in module.named_buffers(prefix, recurse=False) if name not in saved]
        loose = any(_holds_tensor(value) for name, value in vars(module).items() if name not in _REGISTERED)
        if loose or (computed and not hasattr(module, "init_non_persistent_buffers")):
            return False
    return True


def _holds_tensor(value: object) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, Tensor) for item in items)


def check_tensors(model: nn.Module, path: Path) -> None:
    """Raise a ValueError if the file's tensors have other names or shapes than the model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
    cfg: Any = getattr(model, "pretrained_cfg", {})
    architecture = cfg.get("architecture", type(model).__name__)
    for name in {**expected, **found}:
        if name not in found:
            raise ValueError(f"{path.name} lacks {name}")
        if name not in expected:
            raise ValueError(f"{path.name} holds {name}, which {architecture} does not have")
        if found[name] != expected[name]:
            raise ValueError(
                f"{name} has the shape {found[name]} in {path.name}; {architecture} expects {expected[name]}"
            )


def fill(model: nn.Module, path: Path) -> nn.Module:
    """Allocate memory for a model on the meta device, and fill it with the values in the file."""
    model._apply(_allocate)  # does the same as `to_empty`, but faster
    for module in list[Any](model.modules()):
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # timm's protocol for values that are not in checkpoints
    left = list(model.state_dict().items())[::-1]
    with torch.no_grad():
        while left:
            # The file is mapped into memory. Closing it releases the parts that were read, so little more than
            # `_PORTION` bytes are in memory twice.
            with safe_open(path, "pt") as file:
                copied = 0
                while left and copied < _PORTION:
                    name, tensor = left.pop()
                    tensor.copy_(file.get_tensor(name))
                    copied += tensor.nbytes
    return model


def _allocate(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU with the same shape, type and memory format; its values are not set."""
    if not tensor.is_contiguous():
        return torch.empty_like(tensor, device="cpu")  # slow for tensors on the meta device
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def find_not_finite(model: nn.Module) -> str:
    """Return the name of the first tensor with NaN or infinity, which would spoil predictions; "" if all are finite.

    In a tensor with one element, infinity is allowed, because it can mean "no limit"; NaN is not allowed.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and tensor.numel():
            low, high = (extreme.item() for extreme in tensor.aminmax())  # both are NaN if any value is NaN
            infinite = math.isinf(low) or math.isinf(high)
            if math.isnan(low) or (infinite and tensor.numel() > 1):
                return name
    return ""
