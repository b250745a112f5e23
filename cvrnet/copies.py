"""Copy networks."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TypeVar

from torch import nn

_Module = TypeVar("_Module", bound=nn.Module)


def copy_network(network: _Module, memo: dict[int, object] | None = None) -> _Module:
    """Return ``copy.deepcopy(network, memo)`` in half the time.

    A module has about ten empty collections, mostly of hooks, which `copy.deepcopy` copies slowly. This function tells
    `copy.deepcopy` to use new empty collections instead. ``memo`` is as in `copy.deepcopy`.
    """
    known = dict(memo or {})
    for module in network.modules():
        for value in vars(module).values():
            if not value and type(value) in (OrderedDict, dict, set):
                known.setdefault(id(value), type(value)())
    return copy.deepcopy(network, known)
