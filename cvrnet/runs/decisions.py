"""Save and load a model's decisions (thresholds, prediction sets, abstention) in its config.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.metrics.decisions import Decisions, average_decisions
from cvrnet.runs.label_names import label_names
from cvrnet.runs.layout import CONFIG
from cvrnet.runs.model_config import read_config

KEY = "decisions"  #: key in config.json, in the run.json of an evaluation, and in the metadata of an ONNX file


def save_decisions(folder: Path, decisions: Decisions) -> None:
    """Write a model's decisions into its config.json; they replace earlier decisions."""
    config = read_config(folder / CONFIG)
    write_json(folder / CONFIG, {**config, KEY: decisions.to_dict()})


def load_decisions(folders: Sequence[Path]) -> Decisions:
    """Return the decisions of a model, or of an ensemble of models (see `average_decisions`).

    A decision is left out if the model, or any model of the ensemble, does not have it.

    Raises:
        UserError: A config.json, or the decisions in it, are not valid; or ``cvrnet calibrate`` calibrated models of
            the ensemble one by one, instead of the whole ensemble.
    """
    members = []
    for folder in folders:
        try:
            config = read_config(folder / CONFIG)
            names = label_names(config.get("label_names"), config.get("num_classes", 0))
            members.append(Decisions.from_dict(config.get(KEY), names))
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error
    try:
        return average_decisions(members)
    except ValueError as error:
        raise UserError(f"{folders[0].parent}: {error}") from error
