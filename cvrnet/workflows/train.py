"""A whole training run on disk: split, training, evaluation; nothing lost, nothing overwritten unasked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate

from cvrnet.data import DataError, ImageCache, Record, class_names, holdout_split, scan_records
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_csv, write_json
from cvrnet.inference import Predictor
from cvrnet.report import write_report
from cvrnet.report.draw import draw_learning_curves
from cvrnet.runs.checkpoint import load_checkpoint
from cvrnet.runs.layout import METRICS, RUN, SPLIT, STATE
from cvrnet.runs.read import read_json
from cvrnet.runs.split_table import split_row
from cvrnet.training.config import TrainConfig
from cvrnet.training.loop import Progress, State, fit, make_accelerator
from cvrnet.training.model import create_for_training
from cvrnet.workflows.evaluate import hash_records, predict_decoded, versions, write_evaluation


def train(
    data: str | Path,
    output: str | Path,
    config: TrainConfig | None = None,
    *,
    classes: Sequence[str] | None = None,
    test_source: str = "",
    resume: bool = False,
    overwrite: bool = False,
    cache_folder: Path | None = None,
    progress: Progress | None = None,
    on_decode: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Fine-tune one model on a folder or manifest, and evaluate its best epoch.

    Validation images are those whose ``split`` is ``val``, or a part of the patients. Test images are those whose
    ``split`` is ``test`` or whose source is ``test_source``; they are seen only once, at the end.

    Args:
        data: Folder with one sub-folder a class, or CSV manifest.
        output: The run folder: run.json, split.csv, config.json, model.safetensors, history.csv, metrics.json,
            predictions.csv, figures/, tables/, report.html.
        config: The protocol.
        classes: Class order; alphabetical if not given.
        test_source: A source that is kept for testing.
        resume: Go on with the run that is there.
        overwrite: Replace the run that is there.
        cache_folder: Where decoded images are kept.
        progress: Whom to tell about epochs and steps.
        on_decode: Called after each decoded image with the number done and the number to do.

    Returns:
        What metrics.json holds: the scores of the sets ``val`` and, where there is one, ``test``.

    Raises:
        DataError: Lists everything that is wrong with the data set, before anything is trained.
        UserError: The run folder exists, or a setting does not fit the data.
    """
    config, output = config or TrainConfig(), Path(output)
    accelerator = make_accelerator(config)
    records, names, cache = load_data(data, config, accelerator, classes, cache_folder, on_decode)
    sets = split_records(records, config, test_source)
    check_training_set(sets["train"], names)
    if accelerator.is_main_process:
        if not output.exists():
            create_for_training(config, len(names))  # what fails in it leaves no run folder behind
        open_run(output, describe_run("train", data, records, config, names, test_source), resume, overwrite)
        write_csv(output / SPLIT, (split_row(r, name) for name, members in sets.items() for r in members))
    accelerator.wait_for_everyone()
    metrics = train_sets(config, sets, names, cache, output, accelerator, progress)
    if accelerator.is_main_process:
        write_report(output)
    accelerator.wait_for_everyone()
    return metrics


def load_data(
    data: str | Path,
    config: TrainConfig,
    accelerator: accelerate.Accelerator,
    classes: Sequence[str] | None = None,
    cache_folder: Path | None = None,
    on_decode: Callable[[int, int], object] | None = None,
) -> tuple[list[Record], list[str], ImageCache]:
    """Read and decode a data set; its images, its classes in order, and the decoded images.

    Raises:
        DataError: Everything that is wrong, of the manifest and of the images.
    """
    records, problems = scan_records(data)
    cache = ImageCache(
        (config.img_size, config.img_size),
        mode="L" if config.in_chans == 1 else "RGB",
        interpolation=config.interpolation,
        folder=cache_folder,
    )
    with accelerator.main_process_first():
        problems = [*problems, *cache.build(records, progress=on_decode if accelerator.is_main_process else None)]
    if problems:
        raise DataError(problems, data)
    return records, class_names(records, classes), cache


def train_sets(
    config: TrainConfig,
    sets: Mapping[str, list[Record]],
    classes: Sequence[str],
    cache: ImageCache,
    folder: Path,
    accelerator: accelerate.Accelerator,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on ``train``, stop by ``val``, and evaluate the best epoch on every set but ``train``.

    A folder that holds metrics.json is finished, and only read; one that holds a training state is resumed.

    Returns:
        What metrics.json holds (on the main process).
    """
    metrics: dict[str, Any] = {}
    if (folder / METRICS).is_file():
        metrics = read_json(folder / METRICS)
    else:
        state = fit(
            config, sets["train"], sets["val"], classes, cache, folder, accelerator=accelerator, progress=progress
        )
        if accelerator.is_main_process:
            scored = {name: members for name, members in sets.items() if name != "train"}
            metrics = _evaluate(folder, config, state, classes, scored, cache)
    if accelerator.is_main_process:
        (folder / STATE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return metrics


def split_records(records: Sequence[Record], config: TrainConfig, test_source: str = "") -> dict[str, list[Record]]:
    """Training, validation and, where the data set names one, test images; no patient is in two of them.

    Raises:
        UserError: The test source is unknown or leaves nothing to train on, or a patient is on both sides.
    """
    check_test_source(records, test_source)

    def is_test(record: Record) -> bool:
        return record.source == test_source if test_source else record.split == "test"

    test = [r for r in records if is_test(r)]
    rest = [r for r in records if not is_test(r) and not (test_source and r.split == "test")]
    val = [r for r in rest if r.split == "val"]
    pool = [r for r in rest if r.split != "val"]
    if not pool:
        raise UserError("no image is left to train on; expected some outside the validation and test sets")
    if not val:
        held_out = holdout_split(pool, config.val_fraction, config.seed)
        val = [r for r, out in zip(pool, held_out, strict=True) if out]
        pool = [r for r, out in zip(pool, held_out, strict=True) if not out]
    sets = {"train": pool, "val": val} | ({"test": test} if test else {})
    _refuse_shared_patients(sets)
    return sets


def check_test_source(records: Sequence[Record], test_source: str) -> None:
    """Refuse a test source that no image is from.

    Raises:
        UserError: Names the sources there are.
    """
    sources = sorted({r.source for r in records} - {""})
    if test_source and test_source not in sources:
        raise UserError(f"unknown test source {test_source!r}; the data set has {', '.join(sources) or 'no sources'}")


def check_training_set(records: Sequence[Record], classes: Sequence[str]) -> None:
    """Refuse to train a class that has no image.

    Raises:
        UserError: Names the classes.
    """
    missing = [name for name in classes if name not in {r.label for r in records}]
    if missing:
        raise UserError(f"no training image of class {', '.join(missing)}; every class needs some")


def describe_run(
    kind: str,
    data: str | Path,
    records: Sequence[Record],
    config: TrainConfig,
    classes: Sequence[str],
    test_source: str,
) -> dict[str, Any]:
    """What run.json holds: enough to repeat the run, and to tell whether another one is the same."""
    counts = {name: sum(r.label == name for r in records) for name in classes}
    return {
        "kind": kind,
        "data": str(Path(data).absolute()),
        "data_sha256": hash_records(records),
        "classes": list(classes),
        "images": counts,
        "test_source": test_source,
        "config": config.to_dict(),
        "versions": versions("cvrnet", "torch", "timm", "accelerate", "numpy", "pillow"),
    }


def open_run(output: Path, description: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Make the run folder and its run.json, or make sure that what is there is the same run.

    Raises:
        UserError: Something is there that may not be touched.
    """
    if output.is_file():
        raise UserError(f"{output} is a file; expected a folder for the run")
    if output.exists() and any(output.iterdir()):
        if not (output / RUN).is_file():
            raise UserError(f"{output} exists and is not a run; choose another folder")
        if overwrite:
            shutil.rmtree(output)
        elif not resume:
            raise UserError(f"{output} exists; --resume goes on with it, --overwrite replaces it")
        else:
            with damaged_files(output / RUN):
                changed = _changes(read_json(output / RUN), description)
            if changed:
                raise UserError(f"{output} is another run ({'; '.join(changed)}); --overwrite replaces it")
    write_json(output / RUN, description)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    settings = {**TrainConfig().to_dict(), **before["config"]}  # a setting that is newer than the run had its default
    parts = [
        *((key, before.get(key), now.get(key)) for key in ("kind", "data_sha256", "classes", "test_source", "folds")),
        *((key, settings[key], value) for key, value in now["config"].items() if key not in _MAY_CHANGE),
    ]
    return [f"{key} is {_short(new)}, was {_short(old)}" for key, old, new in parts if old != new]


_MAY_CHANGE = {"device", "num_workers"}


def _short(value: Any) -> str:
    return repr(value[:12] if isinstance(value, str) else value)


def _refuse_shared_patients(sets: Mapping[str, list[Record]]) -> None:
    seen: dict[str, str] = {}
    for name, records in sets.items():
        for r in records:
            if r.patient_id and seen.setdefault(r.patient_id, name) != name:
                raise UserError(f"patient {r.patient_id!r} is in {seen[r.patient_id]} and in {name} ({r.where})")


def _evaluate(
    folder: Path,
    config: TrainConfig,
    state: State,
    classes: Sequence[str],
    sets: Mapping[str, list[Record]],
    cache: ImageCache,
) -> dict[str, Any]:
    predictor = Predictor([load_checkpoint(folder)], device=config.device)
    scored = {name: predict_decoded(predictor, members, cache, config.batch_size) for name, members in sets.items()}
    draw_learning_curves(folder, {"": state.history})
    return write_evaluation(folder, scored)
