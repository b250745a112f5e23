"""PyTorch fills each new layer with uniform random numbers, which takes most of the time of making a large network.

Most networks of timm then replace them by normal ones, which are drawn faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

LARGE = 200_000
"""Tensors with more numbers than this: the small networks that most tests train have none."""
DRAWN = 65_521
"""Numbers drawn for a large tensor: prime, so that no two rows of a matrix are equal."""


def draw_few(patch: pytest.MonkeyPatch) -> None:
    """Draw `DRAWN` uniform numbers for a large tensor, and repeat them."""
    patch.setattr(Tensor, "uniform_", _repeating(Tensor.uniform_))


def _repeating(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
        size = tensor.numel()
        if size <= LARGE or tensor.is_meta or not tensor.is_contiguous():
            return fill(tensor, *arguments, **options)
        flat, rows = tensor.view(-1), size // DRAWN
        body = flat[: rows * DRAWN].view(rows, DRAWN)
        fill(body[0], *arguments, **options)
        body[1:] = body[0]
        flat[rows * DRAWN :] = body[0, : size - rows * DRAWN]
        return tensor

    return draw
