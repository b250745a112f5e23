"""Let programs draw a few small phantoms instead of hundreds."""

from __future__ import annotations

from typing import Any

import pytest

import cvrnet.data


def draw_few_phantoms(patch: pytest.MonkeyPatch, count: int = 60) -> list[tuple[int, int]]:
    """Patch `cvrnet.data.write_phantoms`; return a list that gets the number and size of each call."""
    asked: list[tuple[int, int]] = []
    draw = cvrnet.data.write_phantoms

    def few(folder: Any, n: int, size: int, **options: Any) -> Any:
        asked.append((n, size))
        return draw(folder, min(n, count), size=min(size, 64), **options)

    patch.setattr(cvrnet.data, "write_phantoms", few)
    return asked
