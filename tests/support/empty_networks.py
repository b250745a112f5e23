"""Empty networks made, and traced, once for each config.json: this takes most of the time of loading a tiny one."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import weakref
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cvrnet.encoders.network_size import MAX_PARAMETERS

if TYPE_CHECKING:
    from torch import nn

_MADE: dict[tuple[str, str], bytes] = {}
_FOUND: dict[Any, list[tuple[str, str]]] = {}
"""Networks as pickles, and the names of convolutions and batch norms; kept for all files of tests."""


NOT_OF_THE_NETWORK = {"decisions", "float32_parts"}
"""What a config.json holds beside the network, which differs between any two trainings."""


def create_once(patch: pytest.MonkeyPatch) -> None:
    """Make the network of a config.json on the meta device once, and copy it for every further checkpoint.

    Which of its batch norms can be folded into convolutions is found out once, too.
    """
    from cvrnet.runs import checkpoint

    folding = import_module("cvrnet.encoders.fuse_batch_norm")
    create, can_be_filled, pairs = checkpoint.create_empty, checkpoint.can_be_filled, folding._pairs
    copies = weakref.WeakSet[Any]()
    places = weakref.WeakKeyDictionary[Any, Any]()  # part of a copy -> its config.json, and its index

    def create_or_copy(folder: Path) -> nn.Module | None:
        config = json.loads((folder / "config.json").read_bytes())
        described = {name: value for name, value in config.items() if name not in NOT_OF_THE_NETWORK}
        key = json.dumps(described), os.environ.get(MAX_PARAMETERS, "")
        if key in _MADE:
            copies.add(model := pickle.loads(_MADE[key]))
            places.update((part, (key, i)) for i, part in enumerate(getattr(model, "encoders", [model])))
            return model
        model = create(folder)
        if model is not None and can_be_filled(model):
            with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):  # an encoder of a test's own
                _MADE[key] = pickle.dumps(model)
        return model

    def pairs_once(part: nn.Module) -> list[tuple[str, str]]:
        place = places.get(part)
        if place is None or part.training:
            return list(pairs(part))
        if place not in _FOUND:
            _FOUND[place] = list(pairs(part))
        return _FOUND[place]

    patch.setattr(folding, "_pairs", pairs_once)
    patch.setattr(checkpoint, "create_empty", create_or_copy)
    patch.setattr(checkpoint, "can_be_filled", lambda model: model in copies or can_be_filled(model))
