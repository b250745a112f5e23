"""Register the models without importing timm: at once if timm is already imported, otherwise when it is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

MODELS = "cvrnet.cvrnet"  # importing this module registers the models


def register_models() -> None:
    """Register the models now, or as soon as timm has been imported.

    This function does not import timm or PyTorch, because these imports take seconds. Some commands need neither timm
    nor PyTorch: predictions with an ONNX file, ``cvrnet data`` and ``cvrnet import``.
    """
    if sys.modules.get("timm") is not None:
        import_module(MODELS)
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Import hook for timm: replaces timm's loader by a loader that also registers the models."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """Loads timm with timm's own loader, then registers the models."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader  # as if timm had been imported without this hook
        self._loader.exec_module(module)
        import_module(MODELS)
