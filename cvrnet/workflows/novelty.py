"""Let a trained model tell images that are unlike its training images (`cvrnet.heads.novelty`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cvrnet.cvrnet import CVRNet
from cvrnet.data import Preprocessing, Record, to_batch
from cvrnet.heads.novelty import unlike
from cvrnet.inference.frozen_features import head_inputs
from cvrnet.inference.head_logits import HeadLogits, averages_probabilities
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.runs.novelty import save_novelty
from cvrnet.runs.predictions import PredictionTable
from cvrnet.training.novelty import fit_novelty
from cvrnet.workflows.job import Job

Table = TypeVar("Table", PredictionTable, FindingTable)
MOST_IMAGES = 500  # of each set; chosen by measurement, of 100 to 400, and so that the time hardly counts


def add_novelty(
    job: Job, model: Any, sets: Mapping[str, Sequence[Record]], folder: Path, scored: Mapping[str, Table]
) -> dict[str, Table]:
    """Fit to training and validation images, save beside the weights, and add each image's value to the predictions.

    At most 500 images of each set are used, drawn by the seed; the others have no value. A model without heads, or with
    too few images, gets nothing.
    """
    if not (isinstance(model, CVRNet) and averages_probabilities(model)):
        return {**scored}
    rng = np.random.default_rng(job.config.seed)
    chosen = {name: np.sort(rng.permutation(len(records))[:MOST_IMAGES]) for name, records in sets.items()}
    inputs = {name: _inputs(job, model, [sets[name][i] for i in rows]) for name, rows in chosen.items() if len(rows)}
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    head = fit_novelty(inputs["train"], inputs["val"], size)
    if head is None:
        return {**scored}
    save_novelty(folder, head)
    found: dict[str, Table] = {}
    for name, table in scored.items():
        values = np.full(len(table.names), np.nan)
        if name in inputs:
            values[chosen[name]] = unlike(head(inputs[name]).numpy()[:, None], [head.quantiles.numpy()])
        found[name] = replace(table, unlike=values)
    return found


def _inputs(job: Job, model: CVRNet, records: Sequence[Record]) -> list[Tensor]:
    """The inputs of the model's heads for some images, on the CPU: one (N, C_i) for each head."""
    if job.features is not None:
        vectors = job.features.vectors[job.features.rows(records), 0]
        return head_inputs(model, torch.from_numpy(np.array(vectors)))
    network, preprocessing = HeadLogits(model.eval(), job.processes.precision), Preprocessing.from_model(model)
    device, size = next(model.parameters()).device, job.config.batch_size
    parts = []
    with torch.inference_mode():
        for start in range(0, len(records), size):
            images = to_batch([job.cache.load(record.path) for record in records[start : start + size]])
            x = preprocessing.normalize(images.to(device)).contiguous(memory_format=torch.channels_last)
            parts.append([pooled.cpu() for pooled in network.head_inputs(x)])
    return [torch.cat(pooled) for pooled in zip(*parts, strict=True)]
