"""Scoring a trained model on labelled images: metrics, predictions, figures, and what was scored (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import DataError, ImageCache, Record, check_classes, scan_records
from cvrnet.errors import UserError
from cvrnet.files import write_csv, write_json
from cvrnet.inference import Predictor
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.report.draw import draw_heads, draw_predictions
from cvrnet.report.headline import NOT_NEW, seen_sentence
from cvrnet.runs.folder import hash_records, versions
from cvrnet.runs.layout import INDEPENDENT, METRICS, PREDICTIONS, RUN, SPLIT
from cvrnet.runs.predictions import Predictions
from cvrnet.runs.read import read_json
from cvrnet.runs.split_table import SplitTable
from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import score
from cvrnet.workflows.job import Callbacks, audit_run, finish_report

KIND = "evaluate"


@dataclass(frozen=True)
class Answers:
    """What a model answered to the images of a set that could be read.

    Attributes:
        records: The images.
        probabilities: Of each class, (N, C).
        heads: Each head's own probabilities, (heads, N, C); None where the model has no heads of its own.
        problems: A line for each image that could not be read.
    """

    records: list[Record]
    probabilities: np.ndarray
    heads: np.ndarray | None
    problems: list[str]


def predict_records(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> Answers:
    """Probabilities of every readable image, of each head too where the model has several.

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
    table = np.array(rows).reshape(len(rows), len(predictor.classes))
    return Answers(good, table, np.stack(by_head, 1) if by_head else None, problems)


def predict_decoded(predictor: Predictor, records: Sequence[Record], cache: ImageCache, batch_size: int = 8) -> Answers:
    """What `predict_records` gives, from images that a training has decoded already.

    Args:
        predictor: The model.
        records: The images, all readable.
        cache: Their pixels, resized as the model wants them.
        batch_size: Images the network sees at once.
    """
    by_head = join_batches(predict_cached(predictor, records, cache, batch_size))
    return Answers(list(records), by_head.mean(0), by_head if predictor.averages_probabilities else None, [])


def prediction_rows(
    records: Sequence[Record], probabilities: np.ndarray, classes: Sequence[str], **columns: str
) -> Iterator[dict[str, Any]]:
    """Rows of predictions.csv; ``columns`` are further, constant ones."""
    for record, p in zip(records, probabilities, strict=True):
        yield {
            "path": record.name,
            "label": record.label,
            "prediction": classes[int(p.argmax())],
            **{f"prob_{name}": repr(float(value)) for name, value in zip(classes, p, strict=True)},
            "source": record.source,
            "patient_id": record.patient_id,
            **columns,
        }


def write_evaluation(folder: Path, sets: Mapping[str, Answers], classes: Sequence[str]) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and figures for one or more sets of images.

    Args:
        folder: Where to.
        sets: Name of the set (``val``, ``test``) to its answers; the figures show the last.
        classes: Class names in the order of the probabilities.

    Returns:
        What metrics.json holds: the scores of each set (see `cvrnet.scoring.score.score`), and ``head_accuracy`` of a
        model that has heads.
    """
    predictions = {name: _predictions(answers, classes) for name, answers in sets.items()}
    metrics = {name: score(p) for name, p in predictions.items()}
    for name, answers in sets.items():
        if answers.heads is not None:
            hits = (answers.heads.argmax(-1) == predictions[name].labels).mean(1)
            metrics[name]["head_accuracy"] = {f"P{i}": float(hit) for i, hit in enumerate(hits, start=1)}
    shown = list(sets)[-1]
    draw_predictions(folder, predictions[shown])
    if heads := head_rows([metrics[shown]]):
        draw_heads(folder, heads)
    rows = (row for name, a in sets.items() for row in prediction_rows(a.records, a.probabilities, classes, split=name))
    write_csv(folder / PREDICTIONS, rows)
    write_json(folder / METRICS, metrics)
    return metrics


def _predictions(answers: Answers, classes: Sequence[str]) -> Predictions:
    records = answers.records
    return Predictions(
        classes=list(classes),
        names=[r.name for r in records],
        labels=np.array([classes.index(r.label) for r in records]),
        probabilities=answers.probabilities,
        sources=[r.source for r in records],
        patients=[r.patient_id for r in records],
        folds=[""] * len(records),
    )


def open_evaluation(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds a training, which an evaluation would spoil, or an evaluation to keep.

    Raises:
        UserError: Says which.
    """
    if (folder / RUN).is_file():
        kind = read_json(folder / RUN).get("kind")
        if kind != KIND:
            raise UserError(f"{folder} is a trained run; expected another folder for the evaluation")
    if (folder / METRICS).exists() and not overwrite:
        raise UserError(f"{folder / METRICS} exists; --overwrite replaces it")


def describe_evaluation(model: str, predictor: Predictor, data: str | Path, answers: Answers) -> dict[str, Any]:
    """What run.json of an evaluation holds: the model, the images, and whether the model knew them.

    ``independent_sources`` are the sources that the model was not trained on, None where it does not say what it was
    trained on; ``seen_images`` counts the images whose paths, or whose patients, it was trained or validated on.
    """
    records = answers.records
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
        "left_out": answers.problems,
        "versions": versions("cvrnet", "torch", "timm", "numpy", "pillow"),
    }


def _trained_on(model: str) -> SplitTable | None:
    """What a model was trained or validated on; None where there is no split.csv."""
    folder = Path(model.removeprefix("local-dir:")).absolute()
    own, above = folder / SPLIT, folder.parent / SPLIT
    path = own if own.is_file() else above if folder.name.startswith("fold-") else own
    if not path.is_file():
        return None
    own_test_fold = {folder.name.removeprefix("fold-")} if path == above else set()
    return SplitTable.read(path).without({"test", INDEPENDENT} | own_test_fold)


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
    open_evaluation(output, overwrite)
    records, problems = scan_records(data, min_classes=1)
    if problems:
        raise DataError(problems, data)
    predictor = Predictor.from_pretrained(model, device, amp, folds=folds)
    check_classes((r.label for r in records), predictor.classes)
    answers = predict_records(predictor, records, batch_size=batch_size, progress=callbacks.stage("Predicting"))
    if not answers.records:
        raise DataError(answers.problems, data)
    run = describe_evaluation(model, predictor, data, answers)
    write_json(output / RUN, run)
    metrics = write_evaluation(output, {"test": answers}, predictor.classes)
    if run["seen_images"]:
        callbacks.say(f"severe: {seen_sentence(run['seen_images'])} {NOT_NEW}")
    if audit:
        audit_run(output, data, records, callbacks)
    finish_report(output, maps, predictor)
    return {**run, "metrics": metrics}
