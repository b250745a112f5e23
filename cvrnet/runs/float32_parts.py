"""Read and write the names of the parts of a network that stay in float32 while the rest computes in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cvrnet.files import write_json
from cvrnet.network import CVRNet
from cvrnet.runs.layout import CONFIG
from cvrnet.runs.model_config import read_config

KEY = "float32_parts"  #: key in config.json, and attribute of the model
WHOLE = ""  #: the name that stands for a whole encoder
MOST = 1000  # largest number of parts that are accepted from a config.json, which may be untrusted


def float32_parts(model: nn.Module) -> list[list[str]]:
    """Return, for each encoder of a CVR-Net, the names of the submodules that stay in float32.

    These are the names that `cvrnet.inference.tune_float32` found for this network or, without tuning, those in each
    encoder's attribute ``float32_parts``. The empty name stands for the whole encoder. An encoder without this
    attribute gets the empty name, because bfloat16 changed probabilities of a ``cvrnet_lite`` by up to 0.18
    (docs/performance.md). For a network of another kind, the result is empty.
    """
    if not isinstance(model, CVRNet):
        return []
    tuned: Sequence[str] | None = getattr(model, KEY, None)
    if tuned is None:
        lists = [getattr(encoder, KEY, None) for encoder in model.encoders]
        return [[WHOLE] if listed is None else list(listed) for listed in lists]
    pairs = [name.partition(".") for name in tuned]
    return [[name for number, _, name in pairs if number == str(i)] for i in range(len(model.encoders))]


def whole_encoders(model: CVRNet) -> list[list[str]]:
    """Return the result of `float32_parts` for a network that is completely in float32: ``[""]`` for each encoder."""
    return [[WHOLE] for _ in model.encoders]


def joined_names(parts: Sequence[Sequence[str]]) -> list[str]:
    """Return the names in one list, as in config.json: ``0.stem``, or ``0`` for the whole first encoder."""
    return [f"{i}.{name}" if name else f"{i}" for i, names in enumerate(parts) for name in names]


def save_float32_parts(model: nn.Module, folder: Path, parts: Sequence[Sequence[str]]) -> None:
    """Set a model's float32 parts (names for each encoder), and replace earlier parts in its config.json."""
    names = joined_names(parts)
    write_json(folder / CONFIG, {**read_config(folder / CONFIG), KEY: names})
    setattr(model, KEY, names)


def restore_float32_parts(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Set a model's float32 parts from the content of its config.json, if config.json states such parts.

    Raises:
        ValueError: The parts are not names of submodules of the encoders.
    """
    names = config.get(KEY)
    if names is None:
        return
    known = dict(model.encoders.named_modules()) if isinstance(model, CVRNet) else {}
    if not isinstance(names, list) or len(names) > MOST:
        raise ValueError(f"{CONFIG} states {KEY} that are not a list of at most {MOST} names")
    for name in names:
        if not isinstance(name, str) or not name or name not in known:
            raise ValueError(f"{CONFIG} states {KEY} that the network does not have: {name!r:.80}")
    setattr(model, KEY, names)
