"""Check the model's arguments in a config.json, which may be untrusted, before a network is made from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LARGEST, _LONGEST, _DEEPEST = 65536, 64, 8
"""Limits of a model's arguments: the largest number, the most items of a list or object, the most levels of nesting."""
_SIZES = ("num_classes", "in_chans")
_NO_ARCHITECTURE = (
    *("cache_dir", "checkpoint_path", "device", "dtype", "encoder_weights", "weights"),
    *("feature_cls", "features_only", "out_indices"),
)
"""Arguments that do not describe the architecture: the source, device or dtype of the weights, or the returned maps."""


def check_model_args(arguments: Any) -> None:
    """Raise ValueError if an argument does not describe the network itself, or has an impossible value or form."""
    if not isinstance(arguments, Mapping):
        raise ValueError("does not describe a model")
    for name in arguments:
        if name in _NO_ARCHITECTURE or name.startswith("pretrained"):
            raise ValueError(
                f"has {name!r:.80} among the model's arguments, but it does not describe the network; remove it"
            )
    for size in _numbers(arguments):
        if not abs(size) <= LARGEST:
            raise ValueError(
                f"has the number {size:g} among the model's arguments; expected -{LARGEST:,} to {LARGEST:,}"
            )
    for name in _SIZES:
        value = arguments.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"has {name}={value!r:.80}; expected a whole number, 0 or more")


def _numbers(value: object, level: int = 0) -> Iterator[float]:
    """Yield the numbers in a JSON value; raise ValueError if a list or object is too long or nested too deeply."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        if level > _DEEPEST or len(value) > _LONGEST:
            raise ValueError(
                f"has a list or object of {len(value)} items at level {level} of the model's arguments; "
                f"expected at most {_LONGEST} items and {_DEEPEST} levels"
            )
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item, level + 1)
