"""Trained models on the Hugging Face Hub: one repository per run, one branch per fold.

This package publishes and copies runs. `cvrnet.runs.hub_download` reads ``hf-hub:user/repo`` for every command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvrnet.hub.pull import pull_folds
    from cvrnet.hub.push import push_folds
    from cvrnet.hub.space import push_space
    from cvrnet.runs.hub_download import hub_checkpoints

_LAZY = {
    "hub_checkpoints": "cvrnet.runs.hub_download",
    "pull_folds": "cvrnet.hub.pull",
    "push_folds": "cvrnet.hub.push",
    "push_space": "cvrnet.hub.space",
}
__all__ = ["hub_checkpoints", "pull_folds", "push_folds", "push_space"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
