"""Many cross-validations of the same data: of several models (v2's Table 5), or with each source left out in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from cvrnet.data import INDEPENDENT, make_folds
from cvrnet.data.splits import hold_back
from cvrnet.errors import UserError
from cvrnet.files import slug, write_csv, write_json
from cvrnet.formatting import spread
from cvrnet.runs.folder import claim_folder
from cvrnet.runs.layout import BENCHMARK, SPLIT, SUMMARY
from cvrnet.runs.split_table import read_folds, split_row
from cvrnet.training import TrainConfig, create_for_training
from cvrnet.training.processes import Processes
from cvrnet.workflows.benchmark_table import benchmark_models, collect_benchmark, measure_speed
from cvrnet.workflows.crossval import check_folds, cross_validate_data
from cvrnet.workflows.job import Callbacks, DataSet, audit_run, describe_run, load_data, share_audit

ABLATIONS: dict[str, str] = {
    "encoder1": "the first encoder alone, with its three heads",
    "encoder2": "the second encoder alone, with its three heads",
    "p3": "the head P3 alone, on the deepest maps of both encoders",
    "mean-logits": "the heads' logits averaged in place of their probabilities",
}
"""Parts of a CVR-Net left out, by name: ``cvrnet:p3``."""


def benchmark(
    data: str | Path,
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
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Cross-validate each model under one protocol, on the same folds, with the same seed (v2 Table 5).

    Each model's cross-validation is a run of its own, ``OUTPUT/MODEL``; the table is written anew after each.

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The folder: run.json, split.csv, a run a model, benchmark.csv, benchmark.md, benchmark.json, figures/.
        models: Names of timm classifiers, or of a CVR-Net and one of ``ABLATIONS`` (``cvrnet:p3``). The others are
            compared with ``cvrnet`` if it is among them, otherwise with the first.
        config: The protocol; its model is not used.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        test_source: A source that is in no fold, and that every model is tested on as well.
        split_from: A split.csv whose folds are taken instead of new ones.
        audit: Audit the data set first (extra ``audit``).
        maps: Show Grad-CAM of some images in each run's report.
        resume: Continue the benchmark in the folder; further models may join it.
        overwrite: Replace the benchmark in the folder.
        cache_folder: Where decoded images are kept; each is decoded once for all models.
        callbacks: What to call for progress and messages.

    Returns:
        The content of benchmark.json.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: A model is unknown or cannot take the images, the folder exists, or the data set does not allow
            these folds.
    """
    config, output, callbacks = config or TrainConfig(), Path(output), callbacks or Callbacks()
    check_folds(n_folds)
    processes = Processes(config.device, config.amp)
    found = load_data(data, config, processes, classes, cache_folder, callbacks)
    inside, _ = hold_back(found.records, test_source)
    if processes.is_main:
        earlier = benchmark_models(output) if resume and not overwrite else []
        models = list(dict.fromkeys([*earlier, *models]))
        for model in models:
            _check(model, config, len(found.classes))
        folds = read_folds(split_from, inside) if split_from else make_folds(inside, n_folds, config.seed)
        description = describe_run(BENCHMARK, found, replace(config, model="-"), test_source)
        _open(output, description | {"folds": max(folds), "models": models}, found, audit, resume, overwrite, callbacks)
        write_csv(output / SPLIT, (split_row(r, fold) for r, fold in zip(inside, folds, strict=True)))
    processes.wait()
    if not processes.is_main:
        models = benchmark_models(output)

    table: dict[str, Any] = {}
    for model in models:
        run = output / slug(model)
        one = model_config(model, config)
        split = output / SPLIT
        _member(output, found, one, model, n_folds, maps, callbacks, test_source=test_source, split_from=split)
        if processes.is_main:
            measure_speed(run, config)
            table = collect_benchmark(output)
    return table


def leave_one_source_out(
    data: str | Path,
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
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Cross-validate on all sources but one, and test on that one: for each source in turn (v2's independent set).

    Each is a run of its own, ``OUTPUT/SOURCE``. A source without which the data set allows no cross-validation (a
    class would be missing, say) is named with the reason, and the others go on.

    Args:
        data: CSV manifest with sources.
        output: The folder: run.json, a run a source, summary.json.
        config: The protocol.
        n_folds: Number of folds, at least 3.
        classes: Class order; alphabetical if not given.
        audit: Audit the data set first (extra ``audit``).
        maps: Show Grad-CAM of some images in each run's report.
        resume: Continue the runs in the folder.
        overwrite: Replace them.
        cache_folder: Where decoded images are kept; each is decoded once for all runs.
        callbacks: What to call for progress and messages.

    Returns:
        What summary.json holds: for each source the scores in cross-validation, on the source, and the drop; or why
        it cannot be left out.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: Fewer than two sources, or the folder exists.
    """
    config, output, callbacks = config or TrainConfig(), Path(output), callbacks or Callbacks()
    check_folds(n_folds)
    processes = Processes(config.device, config.amp)
    found = load_data(data, config, processes, classes, cache_folder, callbacks)
    sources = sorted({r.source for r in found.records} - {""})
    if len(sources) < 2:
        raise UserError(f"{data} has {len(sources)} source; expected two or more (the manifest's column source)")
    if processes.is_main:
        description = describe_run("leave-one-source-out", found, config) | {"folds": n_folds}
        _open(output, description, found, audit, resume, overwrite, callbacks)
    processes.wait()

    summary: dict[str, Any] = {"classes": found.classes, "sources": {}}
    for source in sources:
        row: dict[str, Any] = {"images": sum(r.source == source for r in found.records)}
        try:
            result = _member(
                output, found, config, source, n_folds, maps, callbacks, test_source=source, title=f"without {source}"
            )
        except UserError as error:  # the data set allows no cross-validation without this source; the others go on
            summary["sources"][source] = {**row, "problem": str(error)}
        else:
            if result:  # the main process
                summary["sources"][source] = {
                    **row,
                    "cross_validation": result["mean_std"],
                    INDEPENDENT: result[INDEPENDENT]["mean_std"],
                    "drop_in_accuracy": result[INDEPENDENT]["drop_in_accuracy"],
                }
        if processes.is_main:
            write_json(output / SUMMARY, summary)
    processes.wait()
    return summary


def _open(
    output: Path,
    description: Mapping[str, Any],
    data: DataSet,
    audit: bool,
    resume: bool,
    overwrite: bool,
    callbacks: Callbacks,
) -> None:
    """Claim the folder of a sweep, and audit its data once for all runs."""
    claim_folder(output, description, resume=resume, overwrite=overwrite, defaults=TrainConfig().to_dict())
    if audit:
        audit_run(output, data.path, data.records, callbacks)


def _member(
    output: Path,
    data: DataSet,
    config: TrainConfig,
    name: str,
    n_folds: int,
    maps: bool,
    callbacks: Callbacks,
    *,
    test_source: str,
    split_from: Path | None = None,
    title: str = "",
) -> dict[str, Any]:
    """One cross-validation of a sweep, in a folder of its own; a finished one is only read."""
    return cross_validate_data(
        output / slug(name),
        data,
        config,
        n_folds=n_folds,
        test_source=test_source,
        split_from=split_from,
        audit=lambda run: share_audit(output, run),
        maps=maps,
        resume=True,
        callbacks=callbacks,
        name=title or name,
    )


def model_config(model: str, config: TrainConfig) -> TrainConfig:
    """The protocol with a model by name, where ``MODEL:ABLATION`` leaves a part of a CVR-Net out.

    Raises:
        UserError: No such ablation, or not of a CVR-Net.

    >>> model_config("cvrnet:p3", TrainConfig()).model_kwargs
    {'scales': 'deepest'}
    >>> model_config("cvrnet:encoder2", TrainConfig()).encoders
    ('legacy_xception',)
    """
    if model.startswith(("local-dir:", "hf-hub:")) or ":" not in model:
        return replace(config, model=model)
    base, _, part = model.partition(":")
    if part not in ABLATIONS:
        raise UserError(f"unknown ablation {part!r} of {base}; expected {', '.join(ABLATIONS)}")
    with torch.device("meta"):
        network = timm.create_model(base, device="meta") if timm.is_model(base) else None
    encoders: list[str] | None = getattr(network, "encoder_names", None)
    if encoders is None or len(encoders) < 2:
        raise UserError(f"{base!r} is no CVR-Net of two encoders; expected one of `cvrnet models` before {part!r}")
    changes: dict[str, dict[str, Any]] = {
        "encoder1": {"encoders": (encoders[0],)},
        "encoder2": {"encoders": (encoders[1],)},
        "p3": {"model_kwargs": {**config.model_kwargs, "scales": "deepest"}},
        "mean-logits": {"model_kwargs": {**config.model_kwargs, "average": "logits"}},
    }
    return replace(config, model=base, **changes[part])


def _check(model: str, config: TrainConfig, num_classes: int) -> None:
    """Refuse, before anything is trained, a model that does not exist or cannot take images of this size."""
    settings = replace(model_config(model, config), pretrained=False)
    network = create_for_training(settings, max(2, num_classes)).eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, config.in_chans, config.img_size, config.img_size))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{model} cannot take images of {config.img_size} pixels ({reason}); leave it out") from error


def source_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a source: mean ± standard deviation over the folds, inside and outside, and the drop in accuracy."""
    rows = []
    for source, entry in summary["sources"].items():
        row = {"source left out": source, "images": entry["images"]}
        parts = {"others": entry.get("cross_validation"), "it": entry.get(INDEPENDENT)}
        for score in ("accuracy", "balanced_accuracy"):
            for where, tree in parts.items():
                row[f"{score.replace('_', ' ')} on {where}"] = spread(tree[score]) if tree else "-"
        row["drop in accuracy"] = spread(entry["drop_in_accuracy"]) if "drop_in_accuracy" in entry else "-"
        row["problem"] = entry.get("problem", "")
        rows.append(row)
    return rows
