"""Read JSON from untrusted sources strictly, with limits on its size and nesting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cvrnet.files import open_regular

CONFIG_BYTES = 2**20
_DIGITS = 40  # the most digits that a whole number may have: Python needs minutes to parse millions of digits


def read_config_file(path: Path) -> Any:
    """Return the value in a config.json.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is too large, or is not strict JSON.
    """
    with open_regular(path) as file:
        content = file.read(CONFIG_BYTES + 1)
    if len(content) > CONFIG_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {CONFIG_BYTES:,}")
    try:
        return parse_json(content.decode())
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def parse_json(text: str) -> Any:
    """Parse a JSON text; raises ValueError for NaN, duplicate names, very long numbers and very deep nesting."""
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_real
        )
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"the JSON gives {name!r:.80} twice")
        value[name] = item
    return value


def _constant(name: str) -> float:
    raise ValueError(f"the JSON holds {name}, which JSON does not allow")


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"the JSON holds a number of {len(digits):,} digits; expected at most {_DIGITS}")
    return int(digits)


def _real(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the JSON holds the number {digits:.80}, which is too large")
    return number
