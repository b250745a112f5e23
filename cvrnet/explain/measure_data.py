"""Compare a model's Grad-CAM maps with masks, with chance and with the maps of random networks (extra ``train``)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data import ImageError, Record, read_image, read_records
from cvrnet.data.boxes import box_mask
from cvrnet.data.data_set import DataPath
from cvrnet.errors import UserError
from cvrnet.explain.explaining import Explanation, available_parts, explain
from cvrnet.explain.measures import MEASURES, STAGES, localisation, randomise, similarity
from cvrnet.explain.overlay import THRESHOLD
from cvrnet.files import write_json, write_sheet
from cvrnet.folders import files_aside
from cvrnet.inference import Predictor
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.runs.checkpoint import refuse_bags
from cvrnet.runs.held_out import held_out
from cvrnet.runs.layout import CONFIG, SPLIT
from cvrnet.runs.read import read_json

SUMMARY, IMAGES = "localisation.json", "localisation.csv"
TRAINED = "trained"
WEIGHTS = (TRAINED, *STAGES)

Row = dict[str, Any]


@dataclass
class Measurements:
    """The results of `measure`."""

    rows: list[Row] = field(default_factory=list)  # the measures of each image, part, mask and kind of weights
    similar: list[Row] = field(default_factory=list)  # similarities of each image, part and kind of random weights
    problems: list[str] = field(default_factory=list)  # one line for each image or mask that cannot be used

    def correct(self) -> Measurements:
        """Return the results of the images whose prediction is right."""
        rows, similar = ([r for r in t if r["prediction"] == r["label"]] for t in (self.rows, self.similar))
        return Measurements(rows, similar)


def measure(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    target: str | None = None,
    threshold: float = THRESHOLD,
    batch_size: int = 8,
    seed: int = 0,
    on_explained: Callable[[], object] = lambda: None,
) -> Measurements:
    """Score the Grad-CAM maps of every part of the network on the images that have masks.

    Every image is explained three times, for the same class: by the trained network, by a network with random heads,
    and by a network with random weights everywhere. Without ``target``, the explained class is the class that the
    trained network predicts. A row of the result has the image's ``path, label, prediction, target,
    patient_id``; ``part``, ``mask`` and ``weights``; and what `localisation` returns: ``share`` and the measures. If an
    image has no map of the part, the measures are None, and ``refused`` gives the reason. ``threshold`` is the
    threshold of the IoU, ``seed`` the seed of the random weights. ``on_explained`` is called after each explanation.
    The other arguments are those of `explain`.
    """
    found = Measurements()
    usable = [(r, masks) for r in records if (masks := _read_masks(r, found.problems))]
    parts = available_parts(predictor)
    trained: dict[Path, Explanation] = {}
    for weights in WEIGHTS:
        # The random networks explain the class of the trained network, not the class that they predict themselves.
        targets = target if weights == TRAINED else [trained[r.path].target for r, _ in usable]
        explainer = predictor
        if weights != TRAINED:
            models = [randomise(model, weights, seed + i) for i, model in enumerate(predictor.models)]
            explainer = Predictor(models, str(predictor.device), predictor.precision)
            explainer.preprocessing = predictor.preprocessing
        stream = explain(explainer, [r.path for r, _ in usable], target=targets, parts=parts, batch_size=batch_size)
        for (record, masks), e in zip(usable, stream, strict=True):
            on_explained()
            if e.error:
                found.problems.append(e.error)
                continue
            first = trained.setdefault(record.path, e)
            about = {"path": record.name, "label": record.label, "prediction": first.prediction}
            about |= {"target": first.target, "patient_id": record.patient_id}
            found.rows += _score(e, masks, about, parts, weights, threshold)
            if weights == TRAINED:
                continue
            for part in parts:
                both = part in first.grids and part in e.grids
                rank = similarity(first.grids[part], e.grids[part]) if both else None
                found.similar.append(about | {"part": part, "weights": weights, "rank": rank})
        usable = [(r, masks) for r, masks in usable if r.path in trained]  # without unreadable images
    return found


def summarise(found: Measurements) -> dict[str, list[Row]]:
    """Return the mean of each measure over the images, with 95 % intervals by resampling patients.

    Returns:
        ``localisation``: a row for each part of the network, mask and measure, with these keys:

        - ``images``: number of images; ``flat``: number of their maps that show nothing (see
          `cvrnet.explain.gradcam.refusal`), and so have no value
        - ``mean``, ``interval``: the mean of the measure and its interval
        - ``chance``: the mean share of an image that the mask covers, over the images whose maps have a value
        - ``random``: the mean for the network with random weights everywhere; ``random_flat``: number of this
          network's maps without a value
        - ``above_chance``, ``above_random``: intervals of the paired differences from ``chance`` and from ``random``

        ``similarity``: a row for each part and kind of random weights, with the rank correlation of the random and the
        trained network's maps.
    """
    scores, similar = [], []
    groups = _grouped(found.rows, "part", "mask", "weights")
    for part, mask in dict.fromkeys(key[:2] for key in groups):
        own, other = groups[part, mask, TRAINED], groups[part, mask, STAGES[-1]]
        patients = [row["patient_id"] for row in own]
        share = _column(own, "share")
        for name in MEASURES:
            value, random = _column(own, name), _column(other, name)
            mean, interval = mean_interval(value, patients)
            flat = np.isnan(value)
            row = {"part": part, "mask": mask, "measure": name, "images": len(own), "flat": int(flat.sum())}
            chance = share if flat.all() else share[~flat]
            row |= {"mean": mean, "interval": interval, "chance": float(chance.mean())}
            row |= {"above_chance": mean_interval(value - share, patients)[1]}
            row |= {"random": mean_interval(random, patients)[0], "random_flat": int(np.isnan(random).sum())}
            scores.append(row | {"above_random": mean_interval(value - random, patients)[1]})
    for (part, weights), rows in _grouped(found.similar, "part", "weights").items():
        rank = _column(rows, "rank")
        mean, interval = mean_interval(rank, [row["patient_id"] for row in rows])
        counts = {"images": len(rows), "flat": int(np.isnan(rank).sum())}
        similar.append({"part": part, "weights": weights, **counts, "rank_correlation": mean, "interval": interval})
    return {"localisation": scores, "similarity": similar}


def measure_data(
    model: str,
    data: DataPath,
    output: Path,
    *,
    target: str | None = None,
    threshold: float = THRESHOLD,
    out_of_fold: bool = False,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str = "auto",
    any_body_part: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] = lambda done, total: None,
    say: Callable[[str], object] = lambda line: None,
) -> tuple[dict[str, Any], int]:
    """Score a model's maps on the images of a data set that have masks; write localisation.json and localisation.csv.

    With ``out_of_fold``, ``model`` is the run of a cross-validation, and each image is explained by the
    model of the fold in which it was a test image. ``progress`` is called after each explanation with the number of
    explanations done and the total. ``say`` is as in `read_records`; the other arguments are those of `measure` and
    `cvrnet.Predictor`.

    Returns:
        The content of localisation.json, and the number of images left out because no finished fold tested them.

    Raises:
        UserError: The output folder has files that may not be replaced; no image has a mask; no fold can be used; or
            the model classifies whole studies or patients.
    """
    earlier = _check_results(output, overwrite)
    masked = [r for r in read_records(data, labelled=False, say=say) if _has_mask(r)]
    if not masked:
        raise UserError(f"{data}: no image has a lung_mask, lesion_mask or lesion_boxes; --measure needs one of them")
    images_of = _by_fold(Path(model), masked) if out_of_fold else {model: masked}
    asked = sum(map(len, images_of.values()))
    found, counter = Measurements(), itertools.count(1)
    options: dict[str, Any] = {"target": target, "threshold": threshold, "batch_size": batch_size, "seed": seed}
    for one, images in images_of.items():
        predictor = Predictor.from_pretrained(one, device, dtype, any_body_part=any_body_part)
        refuse_bags(predictor.unit, "--measure")
        predictor.use_masks(images)
        part = measure(predictor, images, **options, on_explained=lambda: progress(next(counter), len(WEIGHTS) * asked))
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
    with files_aside(output, lambda name: earlier, SUMMARY) as aside:
        write_sheet(aside / IMAGES, found.rows)
        write_json(aside / SUMMARY, summary)
    return summary, len(masked) - asked


def _check_results(output: Path, overwrite: bool) -> bool:
    """Return whether a folder has an earlier result to replace; raise UserError if its files may not be replaced."""
    existing = [output / name for name in (SUMMARY, IMAGES) if (output / name).exists()]
    if existing and not overwrite:
        raise UserError(f"{existing[0]} exists; --overwrite replaces it")
    earlier = (output / SUMMARY).is_file() and "images_with_masks" in read_json(output / SUMMARY)
    if existing and not earlier:
        raise UserError(f"{existing[0]} exists, but `cvrnet explain --measure` did not write it; choose another folder")
    return earlier


def _has_mask(record: Record) -> bool:
    return bool(record.lung_mask or record.lesion_mask or record.lesion_boxes)


def _read_masks(record: Record, problems: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Read the usable masks of an image; for each other mask, add a line to the problems."""
    masks = {}
    for name, path in (("lung", record.lung_mask), ("lesion", record.lesion_mask)):
        if path is None:
            continue
        try:
            mask = read_image(path) > 0
            if not mask.any():
                raise ImageError(path, "the mask is empty")
            masks[name] = mask
        except ImageError as error:
            problems.append(str(error))
    if record.lesion_boxes and record.lesion_mask is None:
        with suppress(ImageError):  # the image is read again when it is explained; the problem is reported then
            mask = box_mask(record.lesion_boxes, *read_image(record.path, any_body_part=True).shape)
            if mask.any():
                masks["lesion"] = mask
            else:
                problems.append(record.problem("lesion_boxes lie outside the image"))
    return masks


def _score(
    e: Explanation, masks: dict[str, NDArray[np.bool_]], about: Row, parts: Sequence[str], weights: str, limit: float
) -> Iterator[Row]:
    height, width = e.image.shape[:2]
    for part in parts:
        cam = e.map(part) if part in e.grids else None
        for name, mask in masks.items():
            if mask.shape != (height, width):
                mask = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            scores = {"share": float(mask.mean()), **dict.fromkeys(MEASURES)}
            if cam is not None:
                scores |= localisation(cam, mask, limit)
            keys = {"part": part, "mask": name, "weights": weights}
            yield about | keys | scores | {"refused": e.refused.get(part, "")}


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Group the rows with equal values of these keys; groups are in the order of their first rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], np.float64)  # NaN for None


def _by_fold(run: Path, records: list[Record]) -> dict[str, list[Record]]:
    """Map the model of each finished fold of a cross-validation to the images that the fold tested."""
    asked = held_out(run, records)
    if not asked.known or (run / CONFIG).is_file():
        raise UserError(
            f"{run} has no {SPLIT} that assigns images to folds; --out-of-fold expects the run of `cvrnet crossval`"
        )
    images_of = {
        model: [record for record in records if asked.models_for_image.get(record.name) == (i,)]
        for i, model in enumerate(asked.models)
    }
    if not any(images_of.values()):
        raise UserError(f"no finished fold of {run} was tested on an image that has a mask")
    return {model: images for model, images in images_of.items() if images}
