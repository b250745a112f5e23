"""Find the images at some paths and predict them, in one process or divided among several processes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cvrnet.data import Record, read_records
from cvrnet.data.data_set import DataSet
from cvrnet.data.series import arrange
from cvrnet.data.walk import walk
from cvrnet.errors import UserError
from cvrnet.inference.decide import Decide
from cvrnet.inference.prediction import GATE
from cvrnet.inference.predictor import Predictor
from cvrnet.inference.uncertainty import UNCERTAINTY
from cvrnet.inference.volumes import add_means
from cvrnet.launch import check_launch
from cvrnet.text import printable


class FoundImages(NamedTuple):
    """The images that `find_images` found at some paths."""

    files: list[Path]
    #: A line for each folder in which files or folders were skipped, and the lines that `read_records` passes to `say`.
    notes: list[str]
    problems: list[str]  #: a line for each folder that cannot be read, or has no image
    masked: list[Record]  #: the images for which a manifest or data set has a lung mask


def find_images(paths: Iterable[str | DataSet]) -> FoundImages:
    """Return the images at some paths, in the order of the paths.

    A path is a file, a folder, a CSV manifest, an ``hfds:`` data set or a pattern. A path that matches nothing is
    returned unchanged; reading it later gives an error.
    """
    found = FoundImages([], [], [], [])
    for given in paths:
        text, path = str(given), Path(given)
        if text.startswith("hfds:") or (path.suffix.lower() == ".csv" and os.path.isfile(path)):
            records = read_records(given, labelled=False, say=found.notes.append)
            found.files.extend(record.path for record in records)
            found.masked.extend(record for record in records if record.lung_mask is not None)
        elif os.path.isdir(path):
            _search(path, found)
        else:
            found.files.extend(map(Path, matching_names(text)))
    return found


def matching_names(text: str) -> list[str]:
    """Return the files that match a pattern; if no file matches, or ``text`` is an existing path, only ``text``."""
    matches = [] if os.path.exists(text) else sorted(glob.glob(text, recursive=True))
    return matches or [text]


def _search(folder: Path, found: FoundImages) -> None:
    below = walk(folder, lambda error: found.problems.append(f"{printable(str(error.filename))}: {error.strerror}"))
    if below.masks:
        below.passed_over["a mask"] += len(below.masks)
    if note := below.passed_over_sentence(folder):
        found.notes.append(note)
    if not below.images:
        found.problems.append(f"{printable(str(folder))}: no image found in this folder")
    found.files.extend(folder / name for name in below.images)


class PathPredictions(NamedTuple):
    """The predictions for the images at some paths."""

    columns: list[str]  #: names of the columns; only the main process has columns and rows
    images: int  #: number of images, or of bags for a model of bags
    #: A row for each image, and for each series, study or patient (see the column ``unit``); None in a column without a
    #: value.
    rows: Iterator[dict[str, Any]]
    problems: Sequence[str] = ()  #: as in `FoundImages`
    counted: Sequence[str] = ("image", "slice")  #: values of the column ``unit`` in rows that are not means of others


def predict_paths(
    model: str | Path,
    paths: Sequence[str | DataSet],
    *,
    folds: Sequence[int] = (),
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "auto",
    compile: bool = False,
    backend: str | None = None,
    heads: bool = False,
    uncertainty: bool = False,
    window: str = "",
    any_body_part: bool = False,
    operating_point: str = "",
    coverage: float | None = None,
    by_class: bool = False,
    abstain: float | None = None,
    gate: bool | None = None,
    num_workers: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> PathPredictions:
    """Predict the images at some paths; each process of ``accelerate launch`` predicts a share of them.

    For a model that sees only the lungs, the column ``lungs`` says whether an image was masked or cropped, or why it
    was used whole.

    Args:
        model: As in `Predictor.from_pretrained`.
        paths: As in `find_images`.
        folds: As in `Predictor.from_pretrained`.
        batch_size: As in `Predictor.stream`.
        device: As in `Predictor`.
        dtype: As in `Predictor`.
        compile: As in `Predictor`.
        backend: As in `Predictor.from_pretrained`.
        heads: Add columns for each head's own probabilities.
        uncertainty: Add the columns of `cvrnet.inference.uncertainty`.
        window: As in `Predictor.stream`.
        any_body_part: As in `Predictor`.
        operating_point: A decision to add, as in `cvrnet.inference.decide`.
        coverage: A decision to add, as in `cvrnet.inference.decide`.
        by_class: The kind of coverage, as in `cvrnet.inference.decide`.
        abstain: A decision to add, as in `cvrnet.inference.decide`.
        gate: By default, the columns ``unlike_training`` and ``unusual`` (see `Prediction`) are added if the model can
            detect unusual images. False leaves the columns out; True raises UserError if the model cannot detect
            unusual images.
        num_workers: Number of processes that decode images, as ``processes`` in `Predictor.stream`.
        say: Called on the main process with each line about skipped files or folders and about reading a data set, and
            with each warning about a decision.

    Raises:
        UserError: No image is found; the model, a fold or the device does not exist; the model does not have the
            requested heads or decision; or an option cannot be used with the model.
    """
    check_launch()
    shared = _shared_prediction(device)
    device = shared.device if shared else device
    tell = say if not shared or shared.is_main else lambda line: None
    folders, unit = _checkpoints(model, folds)
    load = partial(Predictor.from_pretrained, model, device, dtype, any_body_part=any_body_part, checkpoints=folders)
    decision: dict[str, Any] = {
        "operating_point": operating_point,
        "coverage": coverage,
        "by_class": by_class,
        "abstain": abstain,
    }
    if unit != "image":
        from cvrnet.inference.study_paths import check_options

        given = {"--compile": compile, "--window": window, "--gate": gate, "--num-workers": num_workers}
        check_options(**given, **{"several processes": shared})
        return _predict_studies(load(), paths, decision, batch_size, heads, uncertainty, say)
    found = find_images(paths)
    for note in found.notes:
        tell(note)
    if not found.files:
        raise UserError("; ".join(found.problems) or "no image found")
    predictor = load(folds=folds, compile=compile, backend=backend, images=len(found.files))
    predictor.use_masks(found.masked)
    if num_workers and predictor.preprocessing.lungs:
        raise UserError("--num-workers cannot be used with a model that sees only the lungs; leave the option out")
    decide = Decide(predictor.decisions, predictor.classes, **decision)
    for warning in decide.warnings:
        tell(f"Warning: {warning}")
    if gate and not predictor.has_gate:
        raise UserError(
            f"{predictor.name} cannot detect images that are unlike its training images: expected a CVR-Net that "
            "`cvrnet train` or `crossval` trained with at least 20 training and 20 validation images"
        )
    slices = list(arrange(found.files))
    run = partial(shared.stream, predictor) if shared else predictor.stream
    stream = run(
        [slice_.path for slice_ in slices], batch_size=batch_size, heads=heads, window=window, processes=num_workers
    )
    if shared and not shared.is_main:
        list(stream)  # predict this process's share; the main process collects the predictions
        shared.close()
        return PathPredictions([], len(slices), iter(()))
    further = [*(GATE if predictor.has_gate and gate is not False else ()), *decide.columns]
    columns = _columns(predictor, any(slice_.volume for slice_ in slices), further, heads, uncertainty)

    def rows() -> Iterator[dict[str, Any]]:
        for answer in add_means(zip(slices, stream, strict=True), predictor.classes, predictor.task):
            row = dict.fromkeys(columns) | answer.row(predictor.classes)
            if not answer.prediction.error:
                row |= decide.row(answer.prediction.probabilities)
            yield row
        if shared:
            shared.close()

    return PathPredictions(columns, len(slices), rows(), found.problems)


def _columns(predictor: Predictor, volumes: bool, further: Sequence[str], heads: bool, uncertainty: bool) -> list[str]:
    """Return the names of all columns; ``further`` names the columns of `GATE` and of the decisions."""
    columns = ["path", *(("unit", "patient_id") if volumes else ()), "prediction"]
    columns += [*(["lungs"] if predictor.preprocessing.lungs else []), *further]
    columns += [f"prob_{name}" for name in predictor.classes]
    if heads:
        columns += [f"head_{i + 1}_{name}" for i in range(predictor.num_heads) for name in predictor.classes]
    return [*columns, *(UNCERTAINTY if uncertainty else ()), "error"]


def _shared_prediction(device: str) -> Any:
    """Return the connection between the processes of ``accelerate launch``; None if there is a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return None
    from cvrnet.inference.distributed import SharedPrediction

    return SharedPrediction(device)


def _checkpoints(model: str | Path, folds: Sequence[int]) -> tuple[list[Path], str]:
    """Return the checkpoint folders of a model, and whether it predicts an ``image``, a ``study`` or a ``patient``."""
    if str(model).lower().endswith(".onnx"):  # an ONNX file has no checkpoint folders, and needs no PyTorch
        return [], "image"
    from cvrnet.runs.checkpoint import find_checkpoints, stored_unit

    folders = find_checkpoints(model, folds)
    return folders, stored_unit(folders[0])


def _predict_studies(
    predictor: Predictor,
    paths: Sequence[str | DataSet],
    decision: dict[str, Any],
    batch_size: int,
    heads: bool,
    uncertainty: bool,
    say: Callable[[str], object],
) -> PathPredictions:
    """Return the predictions of a model that was trained on bags of images."""
    from cvrnet.inference.study_paths import find_studies, study_rows
    from cvrnet.inference.study_predictor import StudyPredictor

    decide = Decide(predictor.decisions, predictor.classes, **decision)
    found = find_studies(paths, predictor.unit, predictor.preprocessing.slices, say)
    if not found.studies:
        raise UserError("; ".join(found.problems) or "no image found")
    StudyPredictor(predictor).check(found.studies)
    for warning in decide.warnings:
        say(f"Warning: {warning}")
    columns, rows = study_rows(
        predictor, found.studies, decide, batch_size=batch_size, heads=heads, uncertainty=uncertainty
    )
    return PathPredictions(columns, len(found.studies), rows, found.problems, (predictor.unit,))
