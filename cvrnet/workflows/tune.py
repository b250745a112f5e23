"""Find the parts of a trained network that must compute in float32 while the rest computes in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cvrnet.data import ImageError, Preprocessing, Record, to_batch
from cvrnet.data.data_set import DataSet
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference.predict_paths import find_images
from cvrnet.inference.tune_float32 import BOUND, IMAGES, MARGIN, Tuned, tune_float32
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import find_checkpoints, refuse_bags
from cvrnet.runs.float32_parts import save_float32_parts, whole_encoders
from cvrnet.runs.hub_download import is_reference
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.job import Job

LEAST = 32  # least number of validation images; fewer images would not show how much a probability may change


def tune(
    model: str | Path,
    images: Sequence[str | DataSet],
    *,
    folds: Sequence[int] = (),
    device: str = "auto",
    any_body_part: bool = False,
    callbacks: Callbacks | None = None,
) -> list[dict[str, Any]]:
    """Find the parts of each fold's network that must compute in float32, and store them in the fold's config.json.

    The function `tune_float32` searches for these parts. Nothing else in the run changes. ``images`` are files, folders
    or manifests, preferably without training images; at most 64 evenly spaced images are used. Other arguments: see
    `cvrnet.workflows`.

    Returns:
        A row for each fold. ``model`` is its name, and ``float32 parts`` is the number of parts that the search found.
        ``largest change before`` and ``largest change after`` are the largest change that bfloat16 causes in a
        probability: before the search, with the parts in float32 that are listed in each encoder's ``float32_parts``;
        after the search, with the parts in float32 that the search found.

    Raises:
        UserError: The model is not a local CVR-Net for single images, or no image can be read.
    """
    callbacks = callbacks or Callbacks()
    if is_reference(model):
        raise UserError(f"{model} is not on this machine; expected a folder (cvrnet pull downloads one)")
    folders = find_checkpoints(model, folds)
    predictor = Predictor.from_pretrained(model, device, "fp32", any_body_part=any_body_part, checkpoints=folders)
    refuse_bags(predictor.unit, "tuning")
    found = find_images(images)
    predictor.use_masks(found.masked)
    if not found.files:
        raise UserError("no image found; expected images, or folders or manifests of images")
    x = _read(predictor, found.files)
    rows, progress = [], callbacks.stage("Tuning")
    for done, (folder, network) in enumerate(zip(folders, predictor.models, strict=True), start=1):
        if not isinstance(network, CVRNet):
            raise UserError(f"{folder} is not a CVR-Net; only for a CVR-Net, parts can be chosen to stay in float32")
        tuned = tune_float32(network, x)
        save_float32_parts(network, folder, tuned.parts)
        rows.append({"model": folder.name, "float32 parts": sum(map(len, tuned.parts))})
        rows[-1] |= {"largest change before": tuned.before, "largest change after": tuned.after}
        if tuned.after > MARGIN * BOUND:
            callbacks.say(f"{folder.name}: {_too_far(tuned)}")
        progress(done, len(folders))
    return rows


def tune_trained(job: Job, model: Any, validation: Sequence[Record], folder: Path) -> None:
    """After training, find the parts of the network that must compute in float32, and store their names with the model.

    The search uses validation images. It runs only if the network was trained in bfloat16, on single images (not bags),
    and if there are at least `LEAST` validation images. Without a search, a network whose encoders were frozen predicts
    completely in float32, because its heads were trained on float32 features; any other network keeps its float32
    parts.
    """
    if not isinstance(model, CVRNet):
        return
    if job.processes.precision != "bf16" or job.config.unit != "image" or len(validation) < LEAST:
        if job.features is not None:
            save_float32_parts(model, folder, whole_encoders(model))
        return
    images = to_batch([job.cache.load(validation[i].path) for i in _spaced(len(validation))])
    tuned = tune_float32(model.to(job.processes.device), _normalized(model, images, job.processes.device))
    save_float32_parts(model, folder, tuned.parts)
    if tuned.after > MARGIN * BOUND:
        job.callbacks.say(_too_far(tuned))


def _read(predictor: Predictor, found: Sequence[Path]) -> torch.Tensor:
    """Return evenly spaced images, normalised; unreadable images are left out."""
    images = []
    for i in _spaced(len(found)):
        try:
            images.append(predictor.preprocessing.resize(predictor.preprocessing.read(found[i])))
        except ImageError:  # `predict` names such files
            continue
    if not images:
        raise UserError("no image can be read")
    return _normalized(predictor.models[0], to_batch(images), predictor.device)


def _normalized(model: Any, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return uint8 images (N, C, H, W) normalised for a model, on its device."""
    x = Preprocessing.from_model(model).normalize(images.to(device))
    return x.contiguous(memory_format=torch.channels_last)


def _spaced(count: int) -> list[int]:
    """Return at most `IMAGES` indices, evenly spaced."""
    return [i * count // min(count, IMAGES) for i in range(min(count, IMAGES))]


def _too_far(tuned: Tuned) -> str:
    return (
        f"in bfloat16, a probability changes by {tuned.after:.4f} even with the float32 parts found here (expected at "
        f"most {MARGIN * BOUND:.4f}); --amp fp32 is exact"
    )
