"""Train one model: from the data set to the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import Record
from cvrnet.data.data_set import DataPath
from cvrnet.data.outcomes import YES
from cvrnet.data.splits import holdout_sets, refuse_missing_classes
from cvrnet.inference import Predictor
from cvrnet.inference.bag_features import BagAnswers, answer_frozen
from cvrnet.inference.cached import join_batches, predict_cached
from cvrnet.inference.head_logits import averages_probabilities
from cvrnet.inference.study_predictor import answer_cached
from cvrnet.metrics.decisions import choose_decisions, choose_finding_decisions
from cvrnet.metrics.operating_points import DEFAULT_SENSITIVITY, targets_by_class, threshold_warnings
from cvrnet.report.draw import draw_learning_curves
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.decisions import save_decisions
from cvrnet.runs.finding_predictions import FindingTable, table_kind
from cvrnet.runs.layout import METRICS, fold_name
from cvrnet.runs.predictions import AnyTable
from cvrnet.runs.read import read_json
from cvrnet.training import Progress, TrainConfig, close_state, fit, is_finished
from cvrnet.training.frozen_encoders import predict_frozen
from cvrnet.training.tracking import tracked
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.cut_lungs import save_segmenter
from cvrnet.workflows.evaluate import write_evaluation
from cvrnet.workflows.findings import MULTILABEL, refuse_missing_findings
from cvrnet.workflows.job import Job, open_run, start_job, with_features
from cvrnet.workflows.novelty import add_novelty
from cvrnet.workflows.outcomes import add_baselines
from cvrnet.workflows.pages import finish_report
from cvrnet.workflows.studies import add_attention
from cvrnet.workflows.tune import tune_trained


def train(
    data: DataPath,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    test_source: str = "",
    audit: bool = True,
    maps: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    log: str = "",
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Fine-tune one model on a folder or manifest, evaluate its best epoch, and write the report.

    Validation images are those whose ``split`` is ``val`` or, if there are none, the images of randomly drawn patients.
    The images held back for testing (the set ``independent``) are scored once, at the end. The run folder gets
    run.json, split.csv, config.json, model.safetensors, history.csv, metrics.json, predictions.csv, figures/, tables/,
    report.html and audit.html.

    Arguments and errors: see `cvrnet.workflows`.

    Returns:
        The content of metrics.json: the scores of the set ``val`` and, if images are held back, ``independent``.
    """
    output = Path(output)
    settings = (classes, cache_folder, callbacks, audit, maps, resume, overwrite, log)
    started = start_job("train", data, output, config, *settings)
    with started as job:
        sets = split_records(job.records, job.config, test_source)
        refuse_missing(job, sets["train"])
        folder = job.place.folder
        open_run(job, folder, "train", ((r, name) for name, members in sets.items() for r in members), test_source)
        metrics = train_sets(with_features(job, [folder]), sets, folder)
        if job.processes.is_main:
            finish_report(folder, maps)
        job.processes.wait()
    return metrics


def split_records(records: Sequence[Record], config: TrainConfig, test_source: str = "") -> dict[str, list[Record]]:
    """Split the images into the sets of one training run.

    This calls `cvrnet.data.splits.holdout_sets` with the config's ``val_fraction``, ``seed`` and ``findings``.
    """
    return holdout_sets(records, config.val_fraction, config.seed, test_source, config.findings)


def refuse_missing(job: Job, train: Sequence[Record]) -> None:
    """Raise UserError if a class has no training image; for findings, see `refuse_missing_findings`."""
    if job.config.findings:
        refuse_missing_findings(train, job.classes)
    else:
        refuse_missing_classes(train, job.classes)


def train_sets(
    job: Job, sets: Mapping[str, list[Record]], folder: Path, name: str = "", fold: int = 0
) -> dict[str, Any]:
    """Train on ``train`` with early stopping on ``val``, and evaluate the best epoch on every set except ``train``.

    If training in the folder is finished (see `is_finished`), its results are only read. If the folder has a training
    state, the training is resumed. ``name`` and ``fold`` are for `Callbacks.training`.

    Returns:
        The content of metrics.json on the main process, ``{}`` on the other processes.
    """
    processes, config = job.processes, job.config
    progress = job.callbacks.training(name, fold) if processes.is_main else Progress()
    metrics: dict[str, Any] = {}
    if not is_finished(folder, config):
        model, features = job.initial.copy(), job.features
        arguments = (config, sets["train"], sets["val"], job.classes, job.cache, folder)
        run = "/".join(filter(None, (job.output.name, name, fold_name(fold) if fold else "")))
        with tracked(job.log if processes.is_main else "", progress, run, folder, config) as progress:
            state = fit(*arguments, model=model, features=features, progress=progress)
        if processes.is_main:
            metrics = _evaluate_best(job, sets, folder)
            draw_learning_curves(folder, {"": state.history})
            close_state(folder, state, config)
    elif processes.is_main:
        metrics = read_json(folder / METRICS)
    processes.wait()
    return metrics


def _evaluate_best(job: Job, sets: Mapping[str, list[Record]], folder: Path) -> dict[str, Any]:
    """Score the best epoch, whose weights are in the folder; return the content of metrics.json."""
    best = load_checkpoint(folder)
    tune_trained(job, best, sets["val"], folder)
    predict = _predictions(job, best)
    has_heads = averages_probabilities(best)
    answers = {part: predict(members) for part, members in sets.items() if part != "train"}
    arguments = {
        part: (sets[part], job.classes, by_head.mean(0), by_head if has_heads else None)
        for part, by_head in answers.items()
    }
    kind = table_kind(MULTILABEL if job.config.findings else {})
    scored = {part: kind.from_records(*given) for part, given in arguments.items()}
    _save_decisions(job, scored["val"], folder)
    if job.config.outcome:
        yes = job.classes.index(YES)
        of_bags = None if job.config.unit == "image" else lambda bags: predict(bags).mean(0)[:, yes].tolist()
        add_baselines(folder, sets, scored, of_bags)
    save_segmenter(folder, job.cache.lungs)
    if job.config.unit != "image":
        return write_evaluation(folder, scored, add_attention(_bag_answers(job, best), sets, folder))
    return write_evaluation(folder, add_novelty(job, best, sets, folder, scored))


def _save_decisions(job: Job, validation: AnyTable, folder: Path) -> None:
    """Choose thresholds, prediction sets and abstention on the validation images, save them, and report warnings."""
    p, config, names = validation, job.config, job.classes
    sensitivity = targets_by_class(config.sensitivity, names, DEFAULT_SENSITIVITY)
    specificity = targets_by_class(config.specificity, names)
    if isinstance(p, FindingTable):
        decisions = choose_finding_decisions(p.labels, p.probabilities, names, sensitivity, specificity)
    else:
        decisions = choose_decisions(p.labels, p.probabilities, names, p.groups, sensitivity, specificity)
    save_decisions(folder, decisions)
    for warning in threshold_warnings(decisions.operating_points):
        job.callbacks.say(warning)


def _predictions(job: Job, model: Any) -> Callable[[Sequence[Record]], NDArray[np.float64]]:
    """Return a function that predicts as the validation in training does.

    For the best epoch, its results are equal to the validation's bit for bit. It returns each head's probabilities,
    (heads, images, classes).
    """
    if job.config.unit != "image":
        answer = _bag_answers(job, model)
        return lambda studies: answer(studies).by_head
    if job.features is not None:
        features = job.features
        return lambda records: predict_frozen(model, features, records)
    predictor = Predictor([model], str(job.processes.device), job.processes.precision)
    size = job.config.batch_size
    return lambda records: join_batches(predict_cached(predictor, records, job.cache, size))


def _bag_answers(job: Job, model: Any) -> Callable[[Sequence[Any]], BagAnswers]:
    """Return a function that predicts bags as the validation in training does."""
    if job.features is not None:
        features = job.features
        return lambda studies: answer_frozen(model, features, studies)
    where = str(job.processes.device), job.processes.precision
    return lambda studies: answer_cached(model, job.cache, studies, *where, job.config.batch_size)
