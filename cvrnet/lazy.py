"""Import a package's names only when they are first used: their modules import PyTorch, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package (PEP 562).

    `modules` maps each name to the module that defines it, and the name of a submodule to that submodule. `otherwise`
    is called with any other name.
    """

    def find(name: str) -> Any:
        if name in modules:
            module = import_module(modules[name])
            return module if modules[name] == f"{package}.{name}" else getattr(module, name)
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
