"""Add a novelty head to a trained model, to mark images unlike its training images (`cvrnet.heads.novelty`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvrnet.data import Preprocessing, Record, to_batch
from cvrnet.heads.novelty import map_sides
from cvrnet.inference.frozen_features import MIRRORED, head_inputs, stored_sides
from cvrnet.inference.head_logits import HeadLogits, averages_probabilities
from cvrnet.metrics.novelty import unlike
from cvrnet.network import CVRNet
from cvrnet.runs.novelty import save_novelty
from cvrnet.runs.predictions import Table
from cvrnet.training.novelty import fit_novelty, fit_sides
from cvrnet.workflows.job import Job

MOST_IMAGES = 500  # at most this number of images of each set is used
MOST_MIRRORED = 300  # training images that are also mirrored; the number was chosen by measurement


def add_novelty(
    job: Job, model: Any, sets: Mapping[str, Sequence[Record]], folder: Path, scored: Mapping[str, Table]
) -> dict[str, Table]:
    """Fit a novelty head, save it beside the weights, and add to the predictions how unusual each image is.

    The head is fitted to at most 500 training and 500 validation images, and to mirrored copies of at most 300 training
    images. At most 500 images of each scored set get a value. The seed and the images' names determine which images are
    drawn, so that the folds of a run draw the same images where possible. Only a CVR-Net that averages the
    probabilities of its heads gets a novelty head, and only if there are enough images.

    Args:
        job: The job.
        model: The trained model.
        sets: Name of a set -> its images. The sets ``train`` and ``val`` are needed.
        folder: The model's folder.
        scored: Name of a set -> its predictions.

    Returns:
        ``scored``, with a value for each drawn image; unchanged if there is no novelty head.
    """
    if not (isinstance(model, CVRNet) and averages_probabilities(model)):
        return {**scored}
    chosen = {name: _draw(records, job.config.seed) for name, records in sets.items()}
    drawn = {name: [sets[name][i] for i in rows] for name, rows in chosen.items() if rows}
    found = {name: _vectors(job, model, records) for name, records in drawn.items()}
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    head = fit_novelty(found["train"][0], found["val"][0], size)
    if head is None:
        return {**scored}
    mirrored = _mirrored(job, model, drawn["train"][:MOST_MIRRORED])
    head = fit_sides(head, found["train"][1], mirrored, found["val"][1], found["val"][0])
    save_novelty(folder, head)
    tables: dict[str, Table] = {}
    for name, table in scored.items():
        values = np.full(len(table.names), np.nan)
        if name in found:
            values[chosen[name]] = unlike(head(*found[name]).numpy()[:, None], [head.quantiles.numpy()])
        tables[name] = replace(table, unlike=values)
    return tables


def _draw(records: Sequence[Record], seed: int) -> list[int]:
    """Return the indices of at most 500 images, in an order that depends only on the seed and the images' names."""

    def key(i: int) -> bytes:
        return hashlib.sha256(f"{seed} {records[i].name}".encode("utf-8", "surrogateescape")).digest()

    return sorted(range(len(records)), key=key)[:MOST_IMAGES]


def _vectors(job: Job, model: CVRNet, records: Sequence[Record]) -> tuple[list[Tensor], Tensor]:
    """Return the inputs of `NoveltyHead`, on the CPU: each head's input (N, C_i), and the `map_sides` of the maps."""
    if (features := job.features) is not None:
        vectors = np.array(features.vectors[features.rows(records), 0])
        return head_inputs(model, torch.from_numpy(vectors)), stored_sides(model, features.sides(records))
    parts = [(model.pool_maps(maps), map_sides(maps, model.groups)) for maps in _maps(job, model, records)]
    inputs = [torch.cat(pooled).cpu() for pooled in zip(*(part[0] for part in parts), strict=True)]
    return inputs, torch.cat([part[1] for part in parts]).cpu()


def _mirrored(job: Job, model: CVRNet, records: Sequence[Record]) -> Tensor:
    """Mirror the images, and return the result of `map_sides` for their feature maps, on the CPU."""
    if job.features is not None:
        return stored_sides(model, job.features.sides(records, MIRRORED))
    return torch.cat([map_sides(maps, model.groups) for maps in _maps(job, model, records, mirrored=True)]).cpu()


def _maps(job: Job, model: CVRNet, records: Sequence[Record], *, mirrored: bool = False) -> Iterator[list[Tensor]]:
    """Yield the model's feature maps of images, or of mirrored images, one batch after the other."""
    network, preprocessing = HeadLogits(model.eval(), job.processes.precision), Preprocessing.from_model(model)
    device, size = next(model.parameters()).device, job.config.batch_size
    for start in range(0, len(records), size):
        images = to_batch([job.cache.load(record.path) for record in records[start : start + size]]).to(device)
        x = preprocessing.normalize(images.flip(3) if mirrored else images)
        with torch.inference_mode():
            maps = network.maps(x.contiguous(memory_format=torch.channels_last))
        yield maps
