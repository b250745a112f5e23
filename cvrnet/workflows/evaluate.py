"""Scoring a trained model on labelled images: metrics, predictions, figures, and what was scored (extra ``train``)."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import ImageCache, Record, to_batch
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.inference import Predictor
from cvrnet.report.draw import draw_heads, draw_predictions
from cvrnet.runs.layout import INDEPENDENT, METRICS, RUN, SPLIT, fold_name
from cvrnet.runs.predictions import PredictionTable, write_predictions
from cvrnet.runs.read import read_json
from cvrnet.runs.split_table import SplitTable
from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import score

KIND = "evaluate"


def predict_records(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> PredictionTable:
    """The predictions for every readable image, and those of each head where the model averages several.

    Args:
        predictor: The model.
        records: The images.
        batch_size: Images the network sees at once.
        progress: Called after each image with the number done and the number of images.
    """
    good, rows, by_head, problems = [], [], [], []
    stream = predictor.stream((r.path for r in records), batch_size=batch_size, heads=predictor.averages_probabilities)
    for done, (record, prediction) in enumerate(zip(records, stream, strict=True), start=1):
        if prediction.error:
            problems.append(prediction.error)
        else:
            good.append(record)
            rows.append(prediction.probabilities)
            if prediction.heads is not None:
                by_head.append(prediction.heads)
        if progress is not None:
            progress(done, len(records))
    table = np.array(rows).reshape(len(rows), len(predictor.classes))  # also of shape (0, C) without any image
    heads = np.stack(by_head, 1) if by_head else None
    return PredictionTable.from_records(good, predictor.classes, table, heads, problems)


def predict_decoded(
    predictor: Predictor, records: Sequence[Record], cache: ImageCache, batch_size: int = 8
) -> PredictionTable:
    """What `predict_records` returns, from images that a training has decoded already.

    Args:
        predictor: The model.
        records: The images, all readable.
        cache: Their pixels, resized as the model wants them.
        batch_size: Images the network sees at once.
    """
    parts = []
    for first in range(0, len(records), batch_size):
        images = to_batch([cache.load(r.path) for r in records[first : first + batch_size]])
        parts.append(predictor.member_probabilities(images).mean(0))
    by_head = np.concatenate(parts, axis=1)
    heads = by_head if predictor.averages_probabilities else None
    return PredictionTable.from_records(records, predictor.classes, by_head.mean(0), heads)


def write_evaluation(folder: Path, sets: Mapping[str, PredictionTable]) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and figures for one or more sets of images.

    Args:
        folder: Where to.
        sets: Name of the set (``val``, ``test``) to its predictions; the figures show the last.

    Returns:
        What metrics.json holds: the scores of each set (see `cvrnet.scoring.score.score`), and ``head_accuracy`` of a
        model that has heads.
    """
    metrics = {name: score(table) for name, table in sets.items()}
    for name, table in sets.items():
        if table.heads is not None:
            hits = (table.heads.argmax(-1) == table.labels).mean(1)
            metrics[name]["head_accuracy"] = {f"P{i}": float(hit) for i, hit in enumerate(hits, start=1)}
    shown = list(sets)[-1]
    draw_predictions(folder, sets[shown])
    if heads := head_rows([metrics[shown]]):
        draw_heads(folder, heads)
    write_predictions(folder, sets)
    write_json(folder / METRICS, metrics)
    return metrics


def open_evaluation(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds a trained run, or an evaluation unless it may be overwritten.

    Raises:
        UserError: Says which of the two.
    """
    if (folder / RUN).is_file():
        kind = read_json(folder / RUN).get("kind")
        if kind != KIND:
            raise UserError(f"{folder} is a trained run; expected another folder for the evaluation")
    if (folder / METRICS).exists() and not overwrite:
        raise UserError(f"{folder / METRICS} exists; --overwrite replaces it")


def describe_evaluation(
    model: str, predictor: Predictor, data: str | Path, records: Sequence[Record], predictions: PredictionTable
) -> dict[str, Any]:
    """What run.json of an evaluation holds: the model, the images, and whether the model was trained on them.

    ``independent_sources`` are the sources that the model was not trained on, None where it does not say what it was
    trained on; ``seen_images`` counts the images whose paths, or whose patients, it was trained or validated on.

    Args:
        model: The MODEL argument, as the user gave it.
        predictor: The model.
        data: The data set.
        records: Its images.
        predictions: Those of the images that could be read; only these are described.
    """
    readable = set(predictions.names)
    records = [r for r in records if r.name in readable]
    cfg = predictor.models[0].pretrained_cfg
    known = _trained_on(model)
    sources = {r.source for r in records} - {""}
    return {
        "kind": KIND,
        "model": model,
        "models": len(predictor.models),
        "architecture": cfg["architecture"],
        "input_size": list(cfg["input_size"]),
        "data": str(Path(data).absolute()),
        "data_sha256": hash_records(records),
        "classes": predictor.classes,
        "images": {name: sum(r.label == name for r in records) for name in predictor.classes},
        "independent_sources": None if known is None else sorted(sources - known.sources),
        "seen_images": 0 if known is None else known.count(records),
        "left_out": list(predictions.problems),
        "versions": versions("cvrnet", "torch", "timm", "numpy", "pillow"),
    }


def _trained_on(model: str) -> SplitTable | None:
    """What a model was trained or validated on; None where there is no split.csv."""
    folder = Path(model.removeprefix("local-dir:")).absolute()
    held_out = {"test", INDEPENDENT}
    path = folder / SPLIT
    if not path.is_file() and folder.name.startswith(fold_name("")):
        # A fold has no split.csv of its own: that of its run says which images the fold tested.
        path = folder.parent / SPLIT
        held_out.add(folder.name.removeprefix(fold_name("")))
    return SplitTable.read(path).without(held_out) if path.is_file() else None


def versions(*names: str) -> dict[str, str]:
    """The versions of these packages, and Python's."""
    return {**{name: version(name) for name in names}, "python": platform.python_version()}


def hash_records(records: Sequence[Record]) -> str:
    """SHA-256 over what a run depends on: each image's name, label, source, patient and split, in the data's order."""
    digest = hashlib.sha256()
    for r in records:
        digest.update("\x1f".join((r.name, r.label, r.source, r.patient_id, r.split)).encode() + b"\n")
    return digest.hexdigest()
