"""Run several cross-validations of one data set: one for each model, or one for each source that is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from cvrnet.data import INDEPENDENT
from cvrnet.data.data_set import DataPath
from cvrnet.encoders.network_size import create_on_meta
from cvrnet.errors import UserError
from cvrnet.files import slug, write_json
from cvrnet.formatting import spread
from cvrnet.moved import moved_names
from cvrnet.runs.checkpoint import refuse_bags
from cvrnet.runs.layout import BENCHMARK, RUN, SUMMARY
from cvrnet.runs.read import read_json
from cvrnet.training import TrainConfig, create_for_training, resolve_interpolation
from cvrnet.training.model import check_trainable, is_trained
from cvrnet.workflows.benchmark_table import collect_benchmark, measure_speed, own_interpolations
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.crossval import check_folds, choose_folds, train_folds
from cvrnet.workflows.findings import MULTILABEL
from cvrnet.workflows.job import Job, open_run, start_job

ABLATIONS = ("encoder1", "encoder2", "p3", "mean-logits")
"""Names of variants of a CVR-Net, written after the model's name: ``cvrnet:p3``.

``encoder1`` keeps only the first encoder, and ``encoder2`` only the second, each with three heads. ``p3`` keeps only
the head P3, on the deepest maps of both encoders. ``mean-logits`` averages the heads' logits instead of their
probabilities.
"""


def benchmark(
    data: DataPath,
    output: str | Path,
    models: Sequence[str],
    config: TrainConfig | None = None,
    *,
    n_folds: int = 5,
    classes: Sequence[str] | None = None,
    test_source: str = "",
    split_from: Path | None = None,
    audit: bool = True,
    maps: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    log: str = "",
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Cross-validate each model under one protocol, on the same folds, with the same seed (second paper, Table 5).

    Each model's cross-validation is a run in ``OUTPUT/MODEL``. ``OUTPUT`` itself gets run.json, split.csv and
    audit.html. After each model, benchmark.csv, benchmark.md, benchmark.json and figures/ are written again.

    ``models`` are names of timm classifiers; a CVR-Net's name may be followed by one of `ABLATIONS` (``cvrnet:p3``).
    The models are compared with ``cvrnet`` or, if it is not among them, with the first model. With ``resume``, models
    may be added. The model that ``config`` names is not used. Other arguments and errors: see `cvrnet.workflows`.

    Returns:
        The content of benchmark.json.

    Raises:
        UserError: A model is unknown, or cannot take images of the size ``config.img_size``.
    """
    output = Path(output)
    check_folds(n_folds)
    settings = (classes, cache_folder, callbacks, audit, maps, resume, overwrite, log)
    config = config or TrainConfig()
    refuse_bags(config.unit, BENCHMARK)
    first = resolve_interpolation(model_config(next(iter(models), config.model), config))
    with start_job(BENCHMARK, data, output, replace(config, interpolation=first.interpolation), *settings) as job:
        protocol = replace(job, config=replace(job.config, model="-", interpolation=config.interpolation))
        return _benchmark(protocol, models, n_folds, test_source, split_from)


def _benchmark(
    job: Job, models: Sequence[str], n_folds: int, test_source: str, split_from: Path | None
) -> dict[str, Any]:
    """Train the models; with the interpolation ``auto``, each model gets images resized with its own interpolation."""
    output = job.place.folder
    folds = choose_folds(job, output, n_folds, test_source, split_from)
    if job.processes.is_main:
        earlier = read_json(output / RUN)["models"] if job.place.continues else []
        models = list(dict.fromkeys([*earlier, *models]))
        for model in models:
            _check(model, job.config, len(job.classes))
    members = zip(folds.inside, folds.numbers, strict=True)
    open_run(job, output, BENCHMARK, members, test_source, folds=folds.count, models=models)

    models = read_json(output / RUN)["models"]
    own = {model: resolve_interpolation(model_config(model, job.config)).interpolation for model in models}
    if len(set(own.values())) > 1 and job.processes.is_main:
        job.callbacks.say(f"{own_interpolations(own)} --interpolation sets the same interpolation for all models")
    table: dict[str, Any] = {}
    for model in models:
        run = output / slug(model)
        one = replace(job.with_config(model_config(model, job.config)), resume=True, sweep=output)
        train_folds(one, run, folds, model)
        if job.processes.is_main:
            measure_speed(run, job.config)
            table = collect_benchmark(output)
    return table


def leave_one_source_out(
    data: DataPath,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    n_folds: int = 5,
    classes: Sequence[str] | None = None,
    audit: bool = True,
    maps: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    log: str = "",
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """For each source, cross-validate on all other sources, and test on this source.

    The source is then an independent set, as in the second paper.

    Each cross-validation is a run in ``OUTPUT/SOURCE``; ``OUTPUT`` itself gets run.json, summary.json and audit.html.
    If a source cannot be left out (for example, because the other sources lack a class), summary.json has the reason,
    and the job continues with the next source. An image of the other sources is not used if the image's ``split`` is
    ``test``; the number of such images is in summary.json (see `cvrnet.data.splits`).

    Arguments and errors: see `cvrnet.workflows`.

    Returns:
        The content of summary.json: for each source, the scores in cross-validation and on the source, the drop in
        accuracy, and the scores of each head on the source; or the reason why the source cannot be left out. If images
        may have several findings, there are no scores of the heads. The drop is then in the mean AUC over the findings
        that have an AUC both in cross-validation and on the source. ``not_scored`` names the findings that either all
        or none of the source's images have.

    Raises:
        UserError: The data set has fewer than two sources.
    """
    output, kind = Path(output), "leave-one-source-out"
    check_folds(n_folds)
    refuse_bags(config.unit if config else "image", kind)
    settings = (classes, cache_folder, callbacks, audit, maps, resume, overwrite, log)
    with start_job(kind, data, output, config, *settings) as job:
        return _leave_out(job, kind, n_folds)


def _leave_out(job: Job, kind: str, n_folds: int) -> dict[str, Any]:
    output = job.place.folder
    sources = sorted({r.source for r in job.records} - {""})
    if len(sources) < 2:
        raise UserError(f"sources in {job.data}: {len(sources)}; expected at least 2 (the manifest's column source)")
    open_run(job, output, kind, [], folds=n_folds)
    one = replace(job, resume=True, sweep=output)
    kinds = {**MULTILABEL, "findings": job.classes} if job.config.findings else {"classes": job.classes}
    summary: dict[str, Any] = {**kinds, "sources": {}}
    for source in sources:
        row: dict[str, Any] = {"images": sum(r.source == source for r in job.records)}
        summary["sources"][source] = row
        run = output / slug(source)
        try:
            folds = choose_folds(one, run, n_folds, source)
        except UserError as error:  # every process gets this error and continues with the next source
            row["problem"] = str(error)
        else:
            result = train_folds(one, run, folds, f"without {source}")
            row["left_out"] = folds.left_out
            if job.processes.is_main:
                outside = result[INDEPENDENT]
                row["cross_validation"] = result["mean_std"]
                row[INDEPENDENT] = outside["mean_std"]
                if job.config.findings:
                    row["drop"], row["not_scored"] = outside["drop"]["macro"], outside["pooled"]["left_out"]
                else:
                    row["drop_in_accuracy"] = outside["drop_in_accuracy"]
                    row["heads"] = outside["pooled"].get("heads", [])
        if job.processes.is_main:
            write_json(output / SUMMARY, summary)
    job.processes.wait()
    return summary if job.processes.is_main else {}


_PLACES = {"others": "cross_validation", "it": INDEPENDENT}  # end of a title in `source_rows` -> key in summary.json


def model_config(model: str, config: TrainConfig) -> TrainConfig:
    """Return the config with the named model; ``MODEL:ABLATION`` means a variant of a CVR-Net (see `ABLATIONS`).

    Raises:
        UserError: The ablation does not exist, or ``MODEL`` is not a CVR-Net of two encoders.

    >>> model_config("cvrnet:p3", TrainConfig()).model_kwargs
    {'scales': 'deepest'}
    >>> model_config("cvrnet:encoder2", TrainConfig()).encoders
    ('legacy_xception',)
    """
    if is_trained(model) or ":" not in model:
        return replace(config, model=model)
    base, _, part = model.partition(":")
    if part not in ABLATIONS:
        raise UserError(f"unknown ablation {part!r} of {base}; expected {', '.join(ABLATIONS)}")
    with torch.device("meta"):
        network = create_on_meta(base) if timm.is_model(base) else None
    encoders: list[str] = getattr(network, "encoder_names", [])
    if len(encoders) < 2:
        raise UserError(
            f"{base!r} is not a CVR-Net of two encoders; put :{part} after a name that `cvrnet models` lists"
        )
    if part in ("encoder1", "encoder2"):
        return replace(config, model=base, encoders=(encoders[int(part[-1]) - 1],))
    option = {"scales": "deepest"} if part == "p3" else {"average": "logits"}
    return replace(config, model=base, model_kwargs={**config.model_kwargs, **option})


def _check(model: str, config: TrainConfig, num_classes: int) -> None:
    """Raise UserError, before any training, if the model is unknown or cannot train on these images and batches."""
    config = replace(model_config(model, config), pretrained=False)
    network = create_for_training(config, num_classes)
    try:
        check_trainable(network, config)
    except UserError as error:
        raise UserError(f"{error}; leave out {model}") from error


def source_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each source: the scores of the models that were trained on the other sources, or the problem.

    The scores (mean ± std over folds) are those on the other sources and on this source, and the drop (see
    `leave_one_source_out`). The problem is the reason why the source cannot be left out.
    """
    rows = []
    for source, entry in summary["sources"].items():
        row = {"source left out": source, "images": entry["images"]}
        row |= _finding_cells(entry, summary["findings"]) if "findings" in summary else _class_cells(entry)
        if any(other.get("left_out") for other in summary["sources"].values()):
            row["split=test left out"] = entry.get("left_out", 0)
        row["problem"] = entry.get("problem", "")
        rows.append(row)
    return rows


def _class_cells(entry: Mapping[str, Any]) -> dict[str, str]:
    row = {}
    for score in ("accuracy", "balanced_accuracy"):
        for where, key in _PLACES.items():
            row[f"{score.replace('_', ' ')} on {where}"] = spread(entry[key][score]) if key in entry else "-"
    row["drop in accuracy"] = spread(entry["drop_in_accuracy"]) if "drop_in_accuracy" in entry else "-"
    return row


def _finding_cells(entry: Mapping[str, Any], findings: Sequence[str]) -> dict[str, str]:
    """Return the mean AUC on the other sources and on the source itself, and the AUC of each finding on the source."""
    row = {}
    for where, key in _PLACES.items():
        row[f"AUC macro on {where}"] = spread(entry[key]["macro"]["roc_auc"]) if key in entry else "-"
    row["drop in AUC"] = spread(entry["drop"]["roc_auc"]) if "drop" in entry else "-"
    per_finding = entry.get(INDEPENDENT, {}).get("per_finding", {})
    row |= {f"{name} on it": spread(per_finding[name]["roc_auc"]) if per_finding else "-" for name in findings}
    row["not scored on it"] = ", ".join(entry.get("not_scored", []))
    return row


__getattr__ = moved_names(__name__, dict.fromkeys(("benchmark_rows", "brief_rows"), "cvrnet.workflows.benchmark_table"))
