"""The maps of a model measured on a whole data set, written as JSON and CSV (extra ``train``)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvrnet.data import Record, read_records
from cvrnet.errors import UserError
from cvrnet.explain.measuring import WEIGHTS, Measurements, measure, summarise
from cvrnet.explain.overlay import THRESHOLD
from cvrnet.files import write_csv, write_json
from cvrnet.inference import Predictor
from cvrnet.runs.held_out import held_out
from cvrnet.runs.layout import CONFIG, SPLIT

SUMMARY, IMAGES = "localisation.json", "localisation.csv"


def measure_data(
    model: str,
    data: str | Path,
    output: Path,
    *,
    target: str | None = None,
    threshold: float = THRESHOLD,
    out_of_fold: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[dict[str, Any], int]:
    """Score a model's maps on the images of a data set that have masks; write `SUMMARY` and `IMAGES` to a folder.

    With ``out_of_fold``, the model is a cross-validation, and each image is explained by the fold that was tested on
    it. The other arguments are those of `measure` and `cvrnet.Predictor`.

    Returns:
        The content of `SUMMARY`, and the number of images that were left out because no finished fold tested them.

    Raises:
        UserError: Results exist and ``overwrite`` was not given, no image has a mask, or no fold can be asked.
    """
    for name in (SUMMARY, IMAGES):
        if (output / name).exists() and not overwrite:
            raise UserError(f"{output / name} exists; --overwrite replaces it")
    masked = [r for r in read_records(data, labelled=False) if r.lung_mask or r.lesion_mask]
    if not masked:
        raise UserError(f"{data}: no image has a lung_mask or lesion_mask; --measure needs some")
    images_of = _by_fold(Path(model), masked) if out_of_fold else {model: masked}
    asked = sum(map(len, images_of.values()))
    found, counter = Measurements(), itertools.count(1)

    def advance() -> None:
        if progress is not None:
            progress(next(counter), len(WEIGHTS) * asked)

    for one, images in images_of.items():
        part = measure(
            Predictor.from_pretrained(one, device=device, dtype=dtype),
            images,
            target=target,
            threshold=threshold,
            batch_size=batch_size,
            seed=seed,
            on_explained=advance,
        )
        found.rows += part.rows
        found.similar += part.similar
        found.problems += part.problems
    summary = {
        "model": model,
        "data": str(data),
        "class": target or "predicted",
        "out_of_fold": out_of_fold,
        "threshold": threshold,
        "seed": seed,
        "images_with_masks": len(masked),
        "images_measured": len({row["path"] for row in found.rows}),
        "problems": found.problems,
        "all": summarise(found),
        "correct": summarise(found.correct()),
    }
    write_csv(output / IMAGES, ({key: _blank_nan(value) for key, value in row.items()} for row in found.rows))
    write_json(output / SUMMARY, summary)
    return summary, len(masked) - asked


def _by_fold(run: Path, records: list[Record]) -> dict[str, list[Record]]:
    """Each finished fold of a cross-validation, and the images that only this fold was not trained on."""
    asked = held_out(run, records)
    if not asked.known or (run / CONFIG).is_file():
        raise UserError(f"{run} has no {SPLIT} of folds; --out-of-fold expects the run of `cvrnet crossval`")
    images_of = {
        model: [record for record in records if asked.models_for_image.get(record.name) == (i,)]
        for i, model in enumerate(asked.models)
    }
    if not any(images_of.values()):
        raise UserError(f"no fold of {run} is finished and was tested on an image that has a mask")
    return {model: images for model, images in images_of.items() if images}


def _blank_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
