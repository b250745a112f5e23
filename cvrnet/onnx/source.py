"""Load the folds of a MODEL argument for export, and describe where their weights come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cvrnet.onnx.graph import PixelNetwork
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.hub_hashes import file_hash
from cvrnet.runs.layout import RUN, WEIGHTS
from cvrnet.runs.read import read_json


def load_network(folders: Sequence[Path], img_size: int | None = None) -> PixelNetwork:
    """Load the folds of a run as one network, in evaluation mode on the CPU.

    Raises:
        UserError: A checkpoint is damaged, does not take this size, or differs from the others in its classes.
    """
    models: list[Any] = [load_checkpoint(folder) for folder in folders]
    # A network that is built for one image size (such as a vision transformer) is built again for the new one.
    if img_size and any(model.pretrained_cfg.get("fixed_input_size") for model in models):
        models = [load_checkpoint(folder, img_size=img_size) for folder in folders]
    return PixelNetwork(models, img_size).eval()


def find_run(folder: Path) -> dict[str, Any]:
    """The content of run.json of a checkpoint, or of the run that it is a fold of; empty where there is none."""
    files = [file for file in (folder / RUN, folder.parent / RUN) if file.is_file()]
    return read_json(files[0]) if files else {}


def provenance(folders: Sequence[Path], run: dict[str, Any]) -> dict[str, Any]:
    """Kind of run, SHA-256 of each fold's weights and of the data set, versions; no paths or names of this machine."""
    # The user's own folder names stay private: only fold-k is taken over.
    names = [folder.name if re.fullmatch(r"fold-\d+", folder.name) else None for folder in folders]
    return {
        "kind": run.get("kind", "model"),
        "weights": [
            {"fold": name, "sha256": file_hash(folder / WEIGHTS)} for name, folder in zip(names, folders, strict=True)
        ],
        "data_sha256": run.get("data_sha256"),
        "trained_with": run.get("versions"),
        "exported_with": {name: version(name) for name in ("cvrnet", "torch", "timm", "onnx", "onnxscript")},
    }
