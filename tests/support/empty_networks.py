"""Empty networks made once for each config.json: making one takes half of the time of loading a tiny checkpoint."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cvrnet.encoders.network_size import MAX_PARAMETERS

if TYPE_CHECKING:
    from torch import nn


def create_once(patch: pytest.MonkeyPatch) -> None:
    """Make the network of a config.json on the meta device once, and copy it for every further checkpoint."""
    import cvrnet.runs.checkpoint

    really = cvrnet.runs.checkpoint.create_empty
    made: dict[tuple[bytes, str], bytes] = {}

    def create(folder: Path) -> nn.Module | None:
        key = (folder / "config.json").read_bytes(), os.environ.get(MAX_PARAMETERS, "")
        if key in made:
            return pickle.loads(made[key])
        model = really(folder)
        with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):  # an encoder of a test's own
            made[key] = pickle.dumps(model)
        return model

    patch.setattr(cvrnet.runs.checkpoint, "create_empty", create)
