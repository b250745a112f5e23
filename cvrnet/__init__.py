"""CVR-Net for timm: dual-encoder, multi-scale image classifiers for chest radiographs.

Importing the package registers its models with timm, and does nothing else::

    import cvrnet, timm
    model = timm.create_model("cvrnet", num_classes=3)
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import timm

from cvrnet import cvrnet as _models  # registers the models
from cvrnet.cvrnet import CVRNet
from cvrnet.moved import keep_old_names

if TYPE_CHECKING:
    from cvrnet.hub import pull_folds, push_folds
    from cvrnet.inference import Predictor

__all__ = ["CVRNet", "Predictor", "__version__", "create_model", "list_models", "pull_folds", "push_folds"]
__version__ = version("cvrnet")

create_model = timm.create_model
keep_old_names()
_LAZY = {"Predictor": "cvrnet.inference", "pull_folds": "cvrnet.hub", "push_folds": "cvrnet.hub"}


def list_models() -> list[str]:
    """Names of the models that this package registers with timm."""
    return sorted(name for name in timm.list_models() if name in _models.default_cfgs)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
