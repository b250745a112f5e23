"""The operating points in a model's config.json, where they travel with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.metrics.operating_points import RULES, OperatingPoint, average_operating_points
from cvrnet.runs.layout import CONFIG
from cvrnet.runs.model_config import label_names, read_config

KEY = "operating_points"


def save_operating_points(folder: Path, points: Sequence[OperatingPoint]) -> None:
    """Add a model's operating points to its config.json, in place of earlier ones."""
    config = read_config(folder / CONFIG)
    write_json(folder / CONFIG, {**config, KEY: [point.to_dict() for point in points]})


def load_operating_points(folders: Sequence[Path]) -> list[OperatingPoint]:
    """The operating points of a model, or of the ensemble of several; none if a model has none.

    Raises:
        UserError: A config.json holds impossible ones.
    """
    members = []
    for folder in folders:
        try:
            config = read_config(folder / CONFIG)
            names = label_names(config.get("label_names"), config.get("num_classes", 0))
            members.append(parse_operating_points(config.get(KEY), names))
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error
    return average_operating_points(members)


def parse_operating_points(values: Any, classes: Sequence[str]) -> list[OperatingPoint]:
    """The operating points in a file that may come from anywhere; raises ValueError if they are not possible."""
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise ValueError("operating_points is no list of objects")
    points = [OperatingPoint.from_dict(value) for value in values]
    keys = {(point.class_name, point.rule) for point in points}
    if len(keys) < len(points) or not keys <= {(name, rule) for name in classes for rule in RULES}:
        raise ValueError("operating_points holds another class than the model's, or one rule of a class twice")
    return points
