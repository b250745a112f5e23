"""Find, for a trained network, which parts must compute in float32 when the rest computes in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cvrnet.data import ImageError, Preprocessing, Record, to_batch
from cvrnet.data.data_set import DataSet
from cvrnet.devices import select_device
from cvrnet.errors import UserError
from cvrnet.inference.predict_paths import find_images
from cvrnet.inference.tune_float32 import BOUND, IMAGES, MARGIN, Tuned, tune_float32
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import checkpoint_unit, find_checkpoints, load_checkpoint, refuse_bags
from cvrnet.runs.float32_parts import save_float32_parts
from cvrnet.runs.hub_download import is_reference
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.job import Job

LEAST = 32  # validation images; fewer would not show how much a probability may change


def tune(
    model: str | Path,
    images: Sequence[str | DataSet],
    *,
    folds: Sequence[int] = (),
    device: str = "auto",
    any_body_part: bool = False,
    callbacks: Callbacks | None = None,
) -> list[dict[str, Any]]:
    """Find the float32 parts of each fold of a run by `tune_float32`, and store them in its config.json.

    ``images`` are PATH arguments (files, folders, manifests), preferably not of the training; 64 of them are looked at,
    evenly spaced. Nothing else in the run changes. Other arguments: see `cvrnet.workflows`.

    Returns:
        For each fold: its name, the number of float32 parts, and the largest change of a probability before and after.

    Raises:
        UserError: The model is not a local CVR-Net for single images, or no image can be read.
    """
    callbacks = callbacks or Callbacks()
    if is_reference(model):
        raise UserError(f"{model} is not on this machine; expected a folder (cvrnet pull brings one)")
    folders = find_checkpoints(model, folds)
    found = find_images(images).files
    if not found:
        raise UserError("no image found")
    rows, progress = [], callbacks.stage("Tuning")
    for done, folder in enumerate(folders, start=1):
        network: Any = load_checkpoint(folder)
        refuse_bags(checkpoint_unit(network), "tuning")
        if not isinstance(network, CVRNet):
            raise UserError(f"{folder} is not a CVR-Net; other models have no float32 parts")
        batch = _batch(network, found, any_body_part, select_device(device))
        tuned = tune_float32(network.to(batch.device), batch)
        save_float32_parts(folder, tuned.parts)
        rows.append({"model": folder.name, "float32 parts": sum(map(len, tuned.parts))})
        rows[-1] |= {"largest change before": tuned.before, "largest change after": tuned.after}
        if tuned.after > MARGIN * BOUND:
            callbacks.say(f"{folder.name}: {_too_far(tuned)}")
        progress(done, len(folders))
    return rows


def tune_trained(job: Job, model: Any, validation: Sequence[Record], folder: Path) -> Any:
    """After a training in bfloat16: find the float32 parts on validation images and store them; returns the model.

    Frozen encoders keep their own lists, with which their features were computed.
    """
    whole = isinstance(model, CVRNet) and job.features is None and job.config.unit == "image"
    if not whole or job.processes.precision != "bf16" or len(validation) < LEAST:
        return model
    chosen = [validation[i].path for i in _spaced(len(validation))]
    images = to_batch([job.cache.load(path) for path in chosen]).to(job.processes.device)
    x = Preprocessing.from_model(model).normalize(images).contiguous(memory_format=torch.channels_last)
    tuned = tune_float32(model.to(x.device), x)
    save_float32_parts(folder, tuned.parts)
    if tuned.after > MARGIN * BOUND:
        job.callbacks.say(_too_far(tuned))
    return load_checkpoint(folder)


def _batch(network: Any, found: Sequence[Path], any_body_part: bool, device: torch.device) -> torch.Tensor:
    """Normalised images, evenly spaced among those that can be read."""
    preprocessing = replace(Preprocessing.from_model(network), any_body_part=any_body_part)
    images = []
    for i in _spaced(len(found)):
        try:
            images.append(preprocessing.resize(preprocessing.read(found[i])))
        except ImageError:  # `predict` names such files
            continue
    if not images:
        raise UserError("no image can be read")
    return preprocessing.normalize(to_batch(images).to(device)).contiguous(memory_format=torch.channels_last)


def _spaced(count: int) -> list[int]:
    """At most `IMAGES` indices, evenly spaced."""
    return [i * count // min(count, IMAGES) for i in range(min(count, IMAGES))]


def _too_far(tuned: Tuned) -> str:
    return (
        f"in bfloat16, a probability changes by {tuned.after:.4f}, whatever parts stay in float32 (expected at most "
        f"{MARGIN * BOUND:.4f}); --amp fp32 is exact"
    )
