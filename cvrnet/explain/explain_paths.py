"""Draw Grad-CAM maps of the images at some paths, for ``cvrnet explain`` (extra ``train``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data.data_set import DataSet
from cvrnet.errors import UserError
from cvrnet.explain.explain_studies import TOP, draw_studies, study_files
from cvrnet.explain.explaining import available_parts
from cvrnet.explain.gradcam import NETWORK
from cvrnet.explain.pictures import draw_images, picture_names
from cvrnet.files import write_sheet
from cvrnet.folders import files_aside
from cvrnet.inference import Predictor
from cvrnet.inference.predict_paths import find_images
from cvrnet.inference.study_paths import check_options, find_studies
from cvrnet.inference.study_predictor import StudyPredictor
from cvrnet.runs.checkpoint import find_checkpoints, stored_unit
from cvrnet.runs.read import read_rows
from cvrnet.text import sheet_cell

ROWS = "explanations.csv"
_COLUMNS = ("path", "prediction", "class", "probability", "figure")
_NO_FILES = (*_COLUMNS[:-1], "study", "attention")


def explain_paths(
    model: str,
    paths: Sequence[str | DataSet],
    output: Path,
    *,
    encoders: Sequence[str] = (),
    heads: Sequence[int] = (),
    everything: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    any_body_part: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object],
    on_problem: Callable[[str], object],
    say: Callable[[str], object] = lambda line: None,
    **drawing: Any,
) -> tuple[list[dict[str, Any]], int]:
    """Draw where a model looked in the images at some paths, and write explanations.csv.

    All files appear when the last image is drawn. With ``overwrite``, they replace the files of an earlier
    result, which are listed in its explanations.csv; other files in the folder stay.

    Overlays show the given ``encoders`` (names, or numbers such as ``"1"``) and ``heads`` (numbers). Without encoders
    and heads, overlays show the whole network. Each figure shows the whole network and the encoders. With
    ``everything``, overlays and figures show all parts: the whole network, the encoders and the heads. A model that
    classifies whole studies or patients does not accept ``encoders``, ``heads``, ``everything`` or ``raw``; see
    `draw_studies`.

    ``progress`` is called after each image with the number done and the number of images. ``on_problem`` is called with
    a sentence for each image or map that could not be drawn. ``say`` is called with lines about
    skipped files or folders, and about reading a data set. Other arguments are those of `Predictor.from_pretrained`,
    `find_images` and `draw_images`.

    Returns:
        The rows of explanations.csv, and the number of models whose maps were averaged.

    Raises:
        UserError: No image is found; the output folder has files that may not be replaced; the model, a part or the
            class does not exist; or the model does not accept an argument.
    """
    if (output / ROWS).exists() and not overwrite:
        raise UserError(f"{output / ROWS} exists; --overwrite replaces it")
    folders = [] if str(model).lower().endswith(".onnx") else find_checkpoints(model)
    if folders and stored_unit(folders[0]) != "image":
        predictor = Predictor.from_pretrained(model, device, dtype, any_body_part=any_body_part, checkpoints=folders)
        check_options(
            **{"--encoder": encoders, "--head": heads, "--all": everything, "--raw": drawing.pop("raw", False)}
        )
        return _explain_studies(predictor, paths, output, overwrite, progress, on_problem, say, drawing)
    found = find_images(paths)
    files = list(dict.fromkeys(found.files))
    for note in found.notes:
        say(note)
    if not files:
        raise UserError("; ".join(found.problems) or "no image found")
    for problem in found.problems:
        on_problem(problem)
    predictor = Predictor.from_pretrained(model, device, dtype, any_body_part=any_body_part, checkpoints=folders)
    predictor.use_masks(found.masked)
    overlays = panels = available_parts(predictor)
    if not everything:
        panels = [part for part in panels if not re.fullmatch(r"P\d+", part)]
        by_number = {str(k): part for k, part in enumerate(panels) if part != NETWORK}
        chosen = [*(by_number.get(name, name) for name in encoders), *(f"P{head}" for head in heads)]
        overlays = list(dict.fromkeys(chosen)) or [NETWORK]
    rows: list[dict[str, Any]] = []
    earlier = _earlier(output)
    _check_pictures(output, picture_names(files, overlays), earlier if overwrite else set(), overwrite)
    with files_aside(output, lambda name: sheet_cell(re.sub(r"\.npy$", ".png", name)) in earlier, ROWS) as aside:
        for row, problems in draw_images(predictor, files, aside, overlays=overlays, panels=panels, **drawing):
            for problem in problems:
                on_problem(problem)
            rows.append(row | {"error": "; ".join(problems)})
            progress(len(rows), len(files))
        write_sheet(aside / ROWS, rows, list(rows[0]) if rows else [])
    return rows, len(predictor.models)


def _explain_studies(
    predictor: Predictor,
    paths: Sequence[str | DataSet],
    output: Path,
    overwrite: bool,
    progress: Callable[[int, int], object],
    on_problem: Callable[[str], object],
    say: Callable[[str], object],
    drawing: dict[str, Any],
) -> tuple[list[dict[str, Any]], int]:
    """Do the work of `explain_paths` for a model that classifies bags of images (see `draw_studies`)."""
    found = find_studies(paths, predictor.unit, predictor.preprocessing.slices, say)
    for problem in found.problems:
        on_problem(problem)
    if not found.studies:
        raise UserError("; ".join(found.problems) or "no image found")
    StudyPredictor(predictor).check(found.studies)
    earlier = _earlier(output)
    ends = ("attention", *(f"{place}-{NETWORK}" for place in range(1, TOP + 1)))
    names = [f"{name}-{end}.png" for name in study_files(found.studies) for end in ends]
    _check_pictures(output, names, earlier if overwrite else set(), overwrite)
    rows: list[dict[str, Any]] = []
    with files_aside(output, lambda name: sheet_cell(name) in earlier, ROWS) as aside:
        for row, problems in draw_studies(predictor, found.studies, aside, progress=progress, **drawing):
            for problem in problems:
                on_problem(problem)
            rows.append(row | {"error": "; ".join(problems)})
        write_sheet(aside / ROWS, rows, list(rows[0]))
    return rows, len(predictor.models)


def _earlier(output: Path) -> set[str]:
    """Return the names of the files of an earlier result, as `sheet_cell` writes them; empty if there is no result."""
    path = output / ROWS
    if not path.is_file():
        return set()
    try:
        rows = read_rows(path, _COLUMNS)
    except UserError as error:
        raise UserError(f"{path} exists, but `cvrnet explain` did not write it; choose another folder") from error
    return {ROWS, *(str(value) for row in rows for column, value in row.items() if column not in _NO_FILES)}


def _check_pictures(output: Path, names: Sequence[str], replaceable: set[str], overwrite: bool) -> None:
    """Raise UserError, before anything is drawn, if a picture exists and may not be replaced."""
    existing = (output / name for name in names if sheet_cell(name) not in replaceable and (output / name).exists())
    if path := next(existing, None):
        if overwrite:
            raise UserError(f"{path} exists and is not part of an earlier result; choose another folder")
        raise UserError(f"{path} exists; --overwrite replaces it")
