"""Scoring a trained model on labelled images: metrics, predictions, figures, and what was scored (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import DataError, ImageCache, Record, check_classes, scan_records
from cvrnet.files import write_json
from cvrnet.inference import Predictor
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.report.draw import draw_heads, draw_predictions
from cvrnet.report.headline import NOT_NEW, seen_sentence
from cvrnet.runs.folder import check_folder, claim_folder, hash_records, versions
from cvrnet.runs.held_out import trained_on
from cvrnet.runs.layout import METRICS
from cvrnet.runs.predictions import PredictionTable, write_predictions
from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import score
from cvrnet.workflows.job import Callbacks, audit_run, finish_report

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
    by_head = join_batches(predict_cached(predictor, records, cache, batch_size))
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
    known = trained_on(model)
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


def evaluate(
    model: str,
    data: str | Path,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    audit: bool = True,
    maps: bool = True,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Score a trained model on labelled images, and write the report.

    Classes are matched by name: the data may lack some of the model's, but have no others. Images that cannot be read
    are left out and named in run.json (``left_out``).

    Args:
        model: A run folder (all its folds as an ensemble), a fold folder, ``local-dir:FOLDER``,
            ``hf-hub:user/repo[@revision]`` or an ONNX file.
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The folder: run.json, metrics.json, predictions.csv, figures/, tables/, report.html, audit.html.
        folds: Only these folds of a run.
        batch_size: Images the network sees at once.
        device: As in `cvrnet.Predictor`.
        amp: As in `cvrnet.Predictor`.
        audit: Audit the data set (extra ``audit``).
        maps: Show Grad-CAM of some images in the report.
        overwrite: Replace the evaluation in the folder.
        callbacks: What to call for progress and messages.

    Returns:
        The content of run.json and, as ``metrics``, of metrics.json.

    Raises:
        DataError: Rows of the manifest are wrong, or no image can be read.
        UserError: The folder holds something else, or the model does not know a class of the data.
    """
    output, callbacks = Path(output), callbacks or Callbacks()
    check_folder(output, KIND, overwrite=overwrite)
    records, problems = scan_records(data, min_classes=1)
    if problems:
        raise DataError(problems, data)
    predictor = Predictor.from_pretrained(model, device, amp, folds=folds)
    check_classes((r.label for r in records), predictor.classes)
    answers = predict_records(predictor, records, batch_size=batch_size, progress=callbacks.stage("Predicting"))
    if not answers.names:
        raise DataError(list(answers.problems), data)
    run = describe_evaluation(model, predictor, data, records, answers)
    claim_folder(output, run, overwrite=overwrite)
    metrics = write_evaluation(output, {"test": answers})
    if run["seen_images"]:
        callbacks.say(f"severe: {seen_sentence(run['seen_images'])} {NOT_NEW}")
    if audit:
        audit_run(output, data, records, callbacks)
    finish_report(output, maps, predictor)
    return {**run, "metrics": metrics}
