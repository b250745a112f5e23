"""Change the settings of the encoders' batch norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cvrnet.errors import UserError


def set_batch_norms(encoders: nn.Module, names: Sequence[str], settings: dict[str, float | None]) -> None:
    """Set ``eps`` and ``momentum`` of every batch norm to the values in ``settings``; None changes nothing.

    The built encoders are changed, because only a few timm models take these settings as arguments.

    ``names`` are the encoders' names, for messages.

    Raises:
        UserError: A value is impossible, or the encoders have no batch norm.
    """
    norms = [m for m in encoders.modules() if isinstance(m, _BatchNorm)]
    for key, value in settings.items():
        if value is None:
            continue
        if not 0 < value < math.inf or (key == "momentum" and value > 1):
            raise UserError(f"bn_{key}={value!r}; expected a positive number" + " up to 1" * (key == "momentum"))
        if not norms:
            raise UserError(f"bn_{key}={value!r}: no batch norm in {' and '.join(names)}; leave bn_{key} out")
        for norm in norms:
            setattr(norm, key, value)
