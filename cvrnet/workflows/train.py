"""One training from data to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import ImageCache, Record
from cvrnet.data.splits import holdout_sets, refuse_missing_classes
from cvrnet.files import write_csv
from cvrnet.inference import Predictor
from cvrnet.report.draw import draw_learning_curves
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.folder import claim_folder
from cvrnet.runs.layout import METRICS, SPLIT, STATE
from cvrnet.runs.read import read_json
from cvrnet.runs.split_table import split_row
from cvrnet.training import Progress, TrainConfig, create_for_training, fit
from cvrnet.training.processes import Processes
from cvrnet.workflows.evaluate import predict_decoded, write_evaluation
from cvrnet.workflows.job import Callbacks, audit_run, describe_run, finish_report, load_data


def train(
    data: str | Path,
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
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Fine-tune one model on a folder or manifest, evaluate its best epoch, and write the report.

    Validation images are those whose ``split`` is ``val``, or a part of the patients. Images of ``test_source``, or
    without one those whose ``split`` is ``test``, are scored once, at the end (see `cvrnet.data.splits`).

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The run folder: run.json, split.csv, config.json, model.safetensors, history.csv, metrics.json,
            predictions.csv, figures/, tables/, report.html, audit.html.
        config: The protocol.
        classes: Class order; alphabetical if not given.
        test_source: A source that is kept for testing.
        audit: Audit the data set first (extra ``audit``).
        maps: Show Grad-CAM of some images in the report.
        resume: Continue the run in the folder.
        overwrite: Replace the run in the folder.
        cache_folder: Where decoded images are kept.
        callbacks: What to call for progress and messages.

    Returns:
        The content of metrics.json: the scores of the sets ``val`` and, where images are held back, ``independent``.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: The run folder exists, or a setting does not fit the data.
    """
    config, output, callbacks = config or TrainConfig(), Path(output), callbacks or Callbacks()
    processes = Processes(config.device, config.amp)
    found = load_data(data, config, processes, classes, cache_folder, callbacks)
    sets = split_records(found.records, config, test_source)
    refuse_missing_classes(sets["train"], found.classes)
    if processes.is_main:
        if not output.exists():
            create_for_training(config, len(found.classes))  # a model that cannot be made leaves no folder behind
        description = describe_run("train", found, config, test_source)
        claim_folder(output, description, resume=resume, overwrite=overwrite, defaults=TrainConfig().to_dict())
        if not (output / SPLIT).is_file():
            write_csv(output / SPLIT, (split_row(r, name) for name, members in sets.items() for r in members))
        if audit:
            audit_run(output, data, found.records, callbacks)
    processes.wait()
    metrics = train_sets(config, sets, found.classes, found.cache, output, callbacks.training("", 0))
    if processes.is_main:
        finish_report(output, maps)
    processes.wait()
    return metrics


def split_records(records: Sequence[Record], config: TrainConfig, test_source: str = "") -> dict[str, list[Record]]:
    """The sets of one training, by the config's seed and fraction (see `cvrnet.data.splits.holdout_sets`)."""
    return holdout_sets(records, config.val_fraction, config.seed, test_source)


def train_sets(
    config: TrainConfig,
    sets: Mapping[str, list[Record]],
    classes: Sequence[str],
    cache: ImageCache,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on ``train``, stop by ``val``, and evaluate the best epoch on every set but ``train``.

    A folder that holds metrics.json is finished, and only read; one that holds a training state is resumed.

    Returns:
        The content of metrics.json (on the main process).
    """
    processes = Processes(config.device, config.amp)
    metrics: dict[str, Any] = {}
    if (folder / METRICS).is_file():
        metrics = read_json(folder / METRICS)
    else:
        state = fit(config, sets["train"], sets["val"], classes, cache, folder, progress=progress)
        if processes.is_main:
            # The same number format and batches as validation had, so that the best epoch's numbers are the same.
            predictor = Predictor([load_checkpoint(folder)], str(processes.device), processes.precision)
            scored = {
                name: predict_decoded(predictor, members, cache, config.batch_size)
                for name, members in sets.items()
                if name != "train"
            }
            draw_learning_curves(folder, {"": state.history})
            metrics = write_evaluation(folder, scored)
    if processes.is_main:
        (folder / STATE).unlink(missing_ok=True)
    processes.wait()
    return metrics
