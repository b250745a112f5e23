"""Empty networks made once for each config.json: making one takes half of the time of loading a tiny checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cvrnet.encoders.network_size import MAX_PARAMETERS

if TYPE_CHECKING:
    from torch import nn


NOT_OF_THE_NETWORK = {"decisions", "float32_parts"}
"""What a config.json holds beside the network, which differs between any two trainings."""


def create_once(patch: pytest.MonkeyPatch) -> None:
    """Make the network of a config.json on the meta device once, and copy it for every further checkpoint."""
    from cvrnet.runs import checkpoint

    create, can_be_filled = checkpoint.create_empty, checkpoint.can_be_filled
    made: dict[tuple[str, str], bytes] = {}
    copies = weakref.WeakSet[Any]()

    def create_or_copy(folder: Path) -> nn.Module | None:
        config = json.loads((folder / "config.json").read_bytes())
        described = {name: value for name, value in config.items() if name not in NOT_OF_THE_NETWORK}
        key = json.dumps(described), os.environ.get(MAX_PARAMETERS, "")
        if key in made:
            copies.add(model := pickle.loads(made[key]))
            return model
        model = create(folder)
        if model is not None and can_be_filled(model):
            with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):  # an encoder of a test's own
                made[key] = pickle.dumps(model)
        return model

    patch.setattr(checkpoint, "create_empty", create_or_copy)
    patch.setattr(checkpoint, "can_be_filled", lambda model: model in copies or can_be_filled(model))
