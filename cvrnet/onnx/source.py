"""What is exported: the folds of a MODEL argument, and where their weights come from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from cvrnet.data import Preprocessing
from cvrnet.errors import UserError
from cvrnet.files import damaged_files
from cvrnet.runs.checkpoint import checkpoint_classes, find_checkpoints, load_checkpoint
from cvrnet.runs.hub_hashes import file_hash
from cvrnet.runs.layout import WEIGHTS


@dataclass(frozen=True)
class Source:
    """The models that go into one file.

    Attributes:
        models: The folds, in evaluation mode on the CPU.
        preprocessing: Theirs.
        provenance: For the file's metadata: kind of run, SHA-256 of each fold's weights and of the data set, versions.
            No names or places of this machine.
        data: The data set that the run was trained on, where run.json names one.
    """

    models: list[nn.Module]
    preprocessing: Preprocessing
    provenance: dict[str, Any]
    data: Path | None


def load_source(model: str | Path, folds: Sequence[int] = (), img_size: int | None = None) -> Source:
    """Load a run folder (all its folds), a fold folder, ``local-dir:FOLDER`` or ``hf-hub:user/repo[@revision]``.

    Args:
        model: Which.
        folds: Of a run, only these.
        img_size: Height and width in pixels; by default those of the training.

    Raises:
        UserError: There is no such model or fold, or it does not take this size.
    """
    folders = find_checkpoints(model, folds)
    models, run = [_load(folder, img_size) for folder in folders], _read_run(folders[0])
    weights = [folder / WEIGHTS for folder in folders]
    preprocessing = Preprocessing.from_model(models[0])
    for other in models[1:]:
        if (checkpoint_classes(other), Preprocessing.from_model(other)) != (
            checkpoint_classes(models[0]),
            preprocessing,
        ):
            raise UserError("the folds differ in classes or preprocessing; expected models of one run")
    if img_size is not None:
        size = (preprocessing.input_size[0], img_size, img_size)
        preprocessing = dataclasses.replace(preprocessing, input_size=size)
    provenance = {
        "kind": run.get("kind", "model"),
        "weights": [{"fold": _fold(file), "sha256": file_hash(file)} for file in weights],
        "data_sha256": run.get("data_sha256"),
        "trained_with": run.get("versions"),
        "exported_with": {name: version(name) for name in ("cvrnet", "torch", "timm", "onnx", "onnxscript")},
    }
    data = run.get("data")
    return Source(models, preprocessing, provenance, Path(data) if isinstance(data, str) else None)


def _load(folder: Path, img_size: int | None) -> nn.Module:
    model = load_checkpoint(folder)
    return load_checkpoint(folder, img_size=img_size) if img_size and _one_size(model) else model


def _one_size(model: Any) -> bool:
    """Whether the network is built for one image size."""
    return bool(model.pretrained_cfg.get("fixed_input_size"))


def _read_run(folder: Path) -> dict[str, Any]:
    for file in (folder / "run.json", folder.parent / "run.json"):
        if file.is_file():
            with damaged_files(file):
                run = json.loads(file.read_text(encoding="utf-8"))
            return run if isinstance(run, dict) else {}
    return {}


def _fold(weights: Path) -> str | None:
    """``fold-3``; the name of any other folder is the user's own affair."""
    name = weights.parent.name
    return name if re.fullmatch(r"fold-\d+", name) else None
