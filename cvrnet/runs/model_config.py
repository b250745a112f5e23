"""Read and validate the config.json of a model, which may be untrusted, before anything is created from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvrnet.data import Preprocessing
from cvrnet.encoders.model_args import check_model_args
from cvrnet.errors import UserError
from cvrnet.runs.label_names import check_names
from cvrnet.strict_json import read_config_file

_MOST_ENCODERS = 8


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.json.

    Raises:
        ValueError: The file is too large, is not strict JSON, or does not describe a valid model.
    """
    config = read_config_file(path)
    try:
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path.name} {error}") from error
    return dict(config)


def _check(config: Any) -> None:
    """Raise ValueError if a config is not valid; the message lacks a subject: `read_config` adds the file's name."""
    if not isinstance(config, Mapping) or not isinstance(config.get("architecture"), str):
        raise ValueError("names no architecture")
    cfg, arguments = config.get("pretrained_cfg", config), config.get("model_args", {})
    if not isinstance(cfg, Mapping):
        raise ValueError("does not describe a model")
    check_model_args({"num_classes": config.get("num_classes", 0)})
    check_model_args(arguments)
    encoders = arguments.get("encoders", ())
    if isinstance(encoders, list) and len(encoders) > _MOST_ENCODERS:
        raise ValueError(f"asks for {len(encoders)} encoders; expected at most {_MOST_ENCODERS}")
    try:
        Preprocessing.from_cfg(cfg)
    except UserError as error:
        raise ValueError(f"has an invalid setting of the preprocessing: {error}") from error
    try:
        check_names(config.get("label_names", cfg.get("label_names", cfg.get("labels"))), config.get("num_classes"))
    except ValueError as error:
        raise ValueError(f"has invalid class names: {error}") from error
