"""Trained models on the Hugging Face Hub: one repository a run, one branch a fold.

``references`` and ``errors`` read (``hf-hub:user/repo``) and lie below ``cvrnet.checkpoints``, so that every command
takes such a reference; ``pull``, ``push``, ``space``, ``card`` and ``redact`` lie above, and nothing but the command
line imports them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cvrnet.hub.pull import pull_folds
    from cvrnet.hub.push import push_folds
    from cvrnet.hub.references import hub_checkpoints
    from cvrnet.hub.space import push_space

__all__ = ["hub_checkpoints", "pull_folds", "push_folds", "push_space"]
_LAZY = {"hub_checkpoints": "references", "pull_folds": "pull", "push_folds": "push", "push_space": "space"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"cvrnet.hub.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
