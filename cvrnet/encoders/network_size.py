"""Limit the size of a network while it is made from a config.json, and do not compute its initial values."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

from cvrnet.errors import UserError

MAX_PARAMETERS = "CVRNET_MAX_PARAMETERS"
"""Environment variable: the most parameters that a network described by a config.json may have."""
_PARAMETERS = 2_000_000_000
_PARTS = 30_000  # modules, parameters and buffers together; no timm model has a quarter as many
_CALLS = 200_000  # calls of PyTorch's functions; maxvit_xlarge takes 33,000; maxvit_tiny for 2048 x 2048 takes 184,000
INITIAL_VALUES = {
    *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
    *(Tensor.erfinv_, Tensor.clamp_),  # timm's trunc_normal_
    *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
}
"""Functions that fill a tensor. On the meta device, they have no effect but take long, so the calls are skipped."""


class TooLarge(ValueError):  # noqa: N818
    """A network has more parameters, modules or tensors than allowed, or its construction calls PyTorch too often."""


class SkipOnMeta(TorchFunctionMode):
    """Skips calls of some functions for tensors on the meta device, and returns the tensor unchanged."""

    def __init__(self, functions: Collection[Callable[..., Any]]) -> None:
        super().__init__()
        self._functions = functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._functions:
            tensor: Any = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def create_on_meta(name: str, **options: Any) -> nn.Module:
    """Return a timm model on the meta device: its tensors have names and shapes, but no memory and no values."""
    with SkipOnMeta(INITIAL_VALUES):
        return timm.create_model(name, device="meta", **options)


class _LimitedCalls(SkipOnMeta):
    """Skips calls like `SkipOnMeta`, and raises `TooLarge` after too many calls of PyTorch's functions.

    Some networks need many calls, because they fill tables of positions value by value.
    """

    _left = _CALLS

    def __torch_function__(self, *call: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TooLarge(f"making the network takes more than {_CALLS:,} calls of PyTorch's functions")
        return super().__torch_function__(*call, **options)


@contextmanager
def limited_size() -> Iterator[None]:
    """Raise `TooLarge` as soon as the networks that are made in this context have too many parameters or parts.

    Parts are modules, parameters and buffers. Each part and its values are counted when the part is registered, so
    the construction of a network that is too large stops early. The construction also stops after too many calls of
    PyTorch's functions.
    """
    text = os.environ.get(MAX_PARAMETERS) or str(_PARAMETERS)
    if not text.isdecimal():
        raise UserError(f"{MAX_PARAMETERS}={text!r}; expected a whole number of parameters")
    most, parameters, parts = int(text), 0, 0

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal parameters, parts
        parts += 1
        parameters += part.numel() if isinstance(part, Tensor) else 0
        if parameters > most:
            raise TooLarge(f"the network has more than {most:,} parameters; set {MAX_PARAMETERS} to allow more")
        if parts > _PARTS:
            raise TooLarge(f"the network has more than {_PARTS:,} modules and tensors")

    hooks = [
        torch_module.register_module_parameter_registration_hook(count),
        torch_module.register_module_buffer_registration_hook(count),
        torch_module.register_module_module_registration_hook(count),
    ]
    try:
        with _LimitedCalls(INITIAL_VALUES):
            yield
    finally:
        for hook in hooks:
            hook.remove()
