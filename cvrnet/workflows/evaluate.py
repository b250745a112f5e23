"""Score a trained model on labelled images, and write metrics, predictions, figures and report (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import DataError, Record, check_classes, read_records
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.finding_labels import count_labels
from cvrnet.data.findings import finding_truth, label_findings
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.inference import Prediction, Predictor
from cvrnet.report.draw import draw_heads, draw_predictions
from cvrnet.report.headline import NOT_NEW, seen_sentence
from cvrnet.runs.attention import StudyAttention, write_attention
from cvrnet.runs.decisions import KEY
from cvrnet.runs.finding_predictions import FindingTable, table_kind
from cvrnet.runs.folder import claim_folder, hash_records, open_run_folder, versions
from cvrnet.runs.held_out import trained_on
from cvrnet.runs.layout import METRICS
from cvrnet.runs.predictions import AnyTable, PredictionTable, write_predictions
from cvrnet.scoring import head_rows, score
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.cut_lungs import lungs_used
from cvrnet.workflows.findings import MULTILABEL
from cvrnet.workflows.outcomes import add_baselines, outcome_of, read_outcome, study_answer
from cvrnet.workflows.pages import audit_run, finish_report
from cvrnet.workflows.studies import describe_bags, one_picture_each, predict_studies, read_studies

KIND, OUTCOME = "evaluate", "outcome"


def predict_all(
    predictor: Predictor,
    records: Sequence[Record],
    batch_size: int,
    progress: Callable[[int, int], object] | None = None,
) -> list[Prediction]:
    """Return a prediction for each image; an unreadable image gets an ``error``. Arguments: see `predict_records`."""
    answers = []
    stream = predictor.stream((r.path for r in records), batch_size=batch_size, heads=predictor.averages_probabilities)
    for done, prediction in enumerate(stream, start=1):
        answers.append(prediction)
        if progress is not None:
            progress(done, len(records))
    return answers


def predict_records(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> Any:
    """Predict the images; return a `PredictionTable` of the readable ones (for a model of findings, a `FindingTable`).

    For a model that averages probabilities, the table also has each head's predictions. ``progress`` is called after
    each image with the number of images done and the number of all images.
    """
    answers = predict_all(predictor, records, batch_size, progress)
    readable = [(record, answer) for record, answer in zip(records, answers, strict=True) if not answer.error]
    rows = np.array([answer.probabilities for _, answer in readable]).reshape(-1, len(predictor.classes))
    by_head = [answer.heads for _, answer in readable if answer.heads is not None]
    return table_kind({"task": predictor.task}).from_records(
        [record for record, _ in readable],
        predictor.classes,
        rows,
        np.stack(by_head, 1) if by_head else None,
        [answer.error for answer in answers if answer.error],
        np.array([answer.unlike_training for _, answer in readable]) if predictor.has_gate else None,
    )


def write_evaluation(
    folder: Path, sets: Mapping[str, AnyTable], further: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Write metrics.json, predictions.csv and figures for one or more sets of images; the figures show the last set.

    ``further`` maps the name of a set to further scores, which are written beside the scores of this set.

    Returns:
        The content of metrics.json: the scores of each set (see `cvrnet.scoring.score`), and ``head_accuracy`` for a
        model with several heads.
    """
    metrics = {name: score(table) | dict((further or {}).get(name, {})) for name, table in sets.items()}
    for name, table in sets.items():
        if isinstance(table, PredictionTable) and table.heads is not None:
            hits = (table.heads == table.labels).mean(1)
            metrics[name]["head_accuracy"] = {f"P{i}": float(hit) for i, hit in enumerate(hits, start=1)}
    shown = list(sets)[-1]
    draw_predictions(folder, sets[shown])
    if heads := head_rows([metrics[shown]]):
        draw_heads(folder, heads)
    write_predictions(folder, sets)
    write_json(folder / METRICS, metrics)
    return metrics


def describe_evaluation(
    model: str,
    predictor: Predictor,
    data: DataPath,
    records: Sequence[Record],
    predictions: AnyTable,
) -> dict[str, Any]:
    """Return an evaluation's run.json: the model, the images, and how many of the images the model was trained on.

    ``independent_sources`` are the images' sources from which no training image came; None if the training images
    are not known. ``seen_images`` is the number of images whose path or patient the model was trained or
    validated on. Only images with a prediction are counted. ``model`` is the MODEL argument that the user gave.
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
        **DataSet.of(data).for_run(),
        "data_sha256": hash_records(records),
        "classes": predictor.classes,
        **(MULTILABEL if predictor.task == FindingTable.task else {}),
        "images": count_labels(records, predictor.classes),
        "independent_sources": None if known is None else sorted(sources - known.sources),
        "seen_images": 0 if known is None else known.count(records),
        KEY: predictor.decisions.to_dict(),
        **(
            {}
            if predictor.unit == "image"
            else describe_bags(records, predictor.unit, predictor.models[0].head.pooling)
        ),
        "left_out": list(predictions.problems),
        "versions": versions("cvrnet", "torch", "timm", "numpy", "pillow"),
    }


def evaluate(
    model: str,
    data: DataPath,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    amp: str = "auto",
    backend: str | None = None,
    any_body_part: bool = False,
    prevalences: Sequence[float] = (),
    audit: bool = True,
    maps: bool = True,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Score a trained model on labelled images, and write the report.

    ``model`` is a run folder (all its folds as an ensemble, or only ``folds``), a fold folder, ``local-dir:FOLDER``,
    ``hf-hub:user/repo[@revision]`` or an ONNX file. The folder ``output`` gets run.json, metrics.json, predictions.csv,
    figures/, tables/, report.html and audit.html. For each of the ``prevalences`` (default: 1, 5, 10, 20 and 50 %), the
    report gives PPV and NPV of each operating point. Other arguments: see `cvrnet.workflows`.

    Classes are matched by name: the data may lack some of the model's classes, but must not have other classes. Images
    that cannot be read are left out and named in run.json (``left_out``).

    Returns:
        The content of run.json and, under the key ``metrics``, the content of metrics.json.

    Raises:
        DataError: Rows of the manifest are wrong, or no image can be read.
        UserError: The folder has files that may not be replaced, or the model lacks a class of the data.
    """
    output, callbacks = Path(output), callbacks or Callbacks()
    check_prevalences(prevalences)
    with open_run_folder(output, KIND, overwrite=overwrite) as place:
        predictor = Predictor.from_pretrained(
            model, device, amp, folds=folds, any_body_part=any_body_part, backend=backend, images=_count(backend, data)
        )
        records, further = read_scored(predictor, data, callbacks.say)
        place.start()
        folder = place.folder
        _, run = score_records(model, predictor, data, records, folder, batch_size, prevalences, callbacks, further)
        if audit:
            findings = predictor.classes if predictor.task == "multilabel" else ()
            audit_run(folder, data, one_picture_each(records), callbacks, any_body_part, output, findings)
        finish_report(folder, maps, predictor)
    return run


def _count(backend: str | None, data: DataPath) -> int | None:
    """Return the number of images if the choice of the backend depends on it, else None."""
    return len(read_records(data, labelled=False)) if backend == "auto" else None


def score_records(
    model: str,
    predictor: Predictor,
    data: DataPath,
    records: Sequence[Record],
    folder: Path,
    batch_size: int,
    prevalences: Sequence[float],
    callbacks: Callbacks,
    about: Mapping[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Predict and score the images, and write all files of an evaluation except audit and report.

    ``about`` (see `read_scored`) is added to run.json. Return the predictions, and the result of `evaluate`.
    """
    attention: list[StudyAttention] = []
    predictor.use_masks(records)
    progress = callbacks.stage("Predicting")
    if predictor.unit == "image":
        answers = predict_records(predictor, records, batch_size=batch_size, progress=progress)
    else:
        arguments, attention = predict_studies(predictor, records, batch_size, progress)
        answers = PredictionTable.from_records(*arguments)
    if not answers.names:
        raise DataError(list(answers.problems), data)
    run = describe_evaluation(model, predictor, data, records, answers)
    run |= lungs_used(predictor, records, callbacks.say)
    run |= {"prevalences": list(prevalences)} if prevalences else {}
    if OUTCOME in about:
        run |= {**about, "left_out": [*about["left_out"], *run["left_out"]]}
    claim_folder(folder, run)
    further = {"test": write_attention(folder, attention)} if attention else {}
    if OUTCOME in about:
        add_baselines(folder, {"test": records}, {"test": answers}, study_answer(predictor, batch_size))
    metrics = write_evaluation(folder, {"test": answers}, further)
    if run["seen_images"]:
        callbacks.say(f"severe: {seen_sentence(run['seen_images'], model)} {NOT_NEW}")
    return answers, {**run, "metrics": metrics}


def read_scored(
    predictor: Predictor, data: DataPath, say: Callable[[str], object]
) -> tuple[list[Record], dict[str, Any]]:
    """Return the labelled images or bags (studies, patients) to score a model on, and further keys of run.json.

    If the model predicts an event, the labels are made from the data set's column of the event, as in training. The
    further keys are then ``outcome`` and ``left_out``. Other models have no further keys. Errors: see `read_for`.
    """
    about: dict[str, Any] = {}
    films: list[Record] | None = None
    if outcome := outcome_of(predictor):
        films, left_out, described = read_outcome(predictor, outcome, data, say)
        about = {OUTCOME: described, "left_out": left_out}
    if predictor.unit == "image":
        return (read_for(predictor.task, predictor.classes, data, say) if films is None else films), about
    studies = read_studies(predictor, data, say, films)
    check_classes((study.label for study in studies), predictor.classes)
    return [*studies], about


def read_for(
    task: str,
    classes: Sequence[str],
    data: DataPath,
    say: Callable[[str], object] = lambda line: None,
    uncertain: str = "ignore",
) -> list[Record]:
    """Read the images of a data set, and label them for a model; ``classes`` are the model's classes or findings.

    Raises:
        DataError: Rows of the manifest are wrong.
        UserError: The model lacks a class of the data, or no image has a known label for any finding of the model.
    """
    if task != FindingTable.task:
        records = read_records(data, min_classes=1, say=say)
        check_classes((r.label for r in records), classes)
        return records
    records = read_records(data, labelled=False, say=say)
    truth = finding_truth(records, classes, uncertain)
    if np.isnan(truth).all():
        expected = ", ".join(classes)
        raise UserError(f"no image has a label for any of the model's findings; expected labels or columns {expected}")
    return label_findings(records, classes, truth)


def refuse_findings(predictor: Predictor, what: str) -> None:
    """Raise UserError for a model of findings; ``what`` names the job, which needs one class per image."""
    if predictor.task == "multilabel":
        raise UserError(
            f"{predictor.name} is a model of findings; {what} is for models of one class per image; `cvrnet evaluate` "
            "measures a model of findings on your images, with thresholds for each finding"
        )


def check_prevalences(prevalences: Sequence[float]) -> None:
    """Raise UserError for a prevalence that is not between 0 and 1."""
    if wrong := [p for p in prevalences if not 0 < p < 1]:
        raise UserError(f"prevalence {wrong[0]}; expected a number between 0 and 1")
