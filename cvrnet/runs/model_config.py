"""The config.json of a model, which may come from anywhere: it is validated before anything is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data import CustomDatasetInfo

from cvrnet.data import Preprocessing
from cvrnet.encoders.model_args import check_model_args
from cvrnet.errors import UserError
from cvrnet.strict_json import read_config_file
from cvrnet.text import printable

_MOST_ENCODERS = 8


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json; raises ValueError if it is too large, not strict JSON, or impossible."""
    config = read_config_file(path)
    try:
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path.name} {error}") from error
    return dict(config)


def _check(config: Any) -> None:
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
        raise ValueError(f"asks for images that are not possible: {error}") from error
    check_names(config.get("label_names", cfg.get("label_names", cfg.get("labels"))), config.get("num_classes"))


def check_names(names: Any, count: int | None) -> None:
    """Raise ValueError if class names are not texts, occur twice, or are more or fewer than the model's classes.

    Names are a list, or timm's dictionary from a class's number to its name, which may have gaps.
    """
    if not names:
        return
    try:
        labels = CustomDatasetInfo(names)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"has label_names={names!r:.80}; expected texts, or numbers with texts") from error
    texts = [labels.index_to_label_name(i) for i in labels.label_indices()]
    if unsafe := [text for text in texts if printable(text) != text]:
        raise ValueError(f"has a class name with a character that is not text: {unsafe[0]!r:.80}")
    if len(set(texts)) < len(texts):
        raise ValueError("gives one name to several classes")
    fits = max(labels.label_indices()) < (count or 0) if isinstance(names, dict) else len(texts) == count
    if count is not None and not fits:
        raise ValueError(f"names other classes than the model has: {len(texts)} names, {count} classes")


def label_names(names: Any, count: int) -> list[str]:
    """The names of `count` classes; class N without a name is ``class_N``; if `names` do not fit, all are.

    >>> label_names({"0": "CVP", "2": "NOR"}, 3)
    ['CVP', 'class_1', 'NOR']
    >>> label_names(["CVP", "NCP", "NOR"], 2)
    ['class_0', 'class_1']
    """
    try:
        check_names(names, count)
    except ValueError:
        names = None
    labels = CustomDatasetInfo(names) if names else None
    return [labels.index_to_label_name(i) if labels and labels.has_label(i) else f"class_{i}" for i in range(count)]
