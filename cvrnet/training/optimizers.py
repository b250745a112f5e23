"""Create timm's optimisers by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import timm.optim
import torch
from torch import nn

from cvrnet.errors import UserError


def create_optimizer(
    parameters: nn.Module | Iterable[nn.Parameter], name: str, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Create the timm optimiser with this name, which may begin with ``lookahead_``.

    Raises:
        UserError: timm has no optimiser with this name, the optimiser needs second derivatives, which training does not
            compute, or it needs a package or a device that is missing.
    """
    names = [str(name) for name in timm.optim.list_optimizers()]
    known = [n for n in names if not timm.optim.get_optimizer_info(n).second_order]
    if str(name).lower().removeprefix("lookahead_") not in known:
        raise UserError(f"optimizer={name!r}; expected one of {', '.join(known)}")
    # fused: one pass over the weights for each step; it also works on CPUs
    options: dict[str, Any] = {"fused": True} if name in ("adam", "adamw") else {}
    try:
        return timm.optim.create_optimizer_v2(parameters, opt=name, lr=lr, weight_decay=weight_decay, **options)
    except (ImportError, AssertionError, RuntimeError, ValueError) as error:
        raise UserError(f"optimizer={name!r} cannot be used here: {error}") from error
