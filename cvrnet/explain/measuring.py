"""Maps measured against lung and lesion masks, against chance and against a random network (extra ``train``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data import Record, read_image
from cvrnet.explain.explaining import Explanation, available_parts, explain
from cvrnet.explain.localisation import MEASURES, localisation
from cvrnet.explain.overlay import THRESHOLD
from cvrnet.explain.sanity import STAGES, randomise, similarity
from cvrnet.inference import Predictor
from cvrnet.metrics.bootstrap import mean_interval

TRAINED = "trained"
WEIGHTS = (TRAINED, *STAGES)

Row = dict[str, Any]


@dataclass
class Measurements:
    """The results of `measure`.

    Attributes:
        rows: One for each image, part, mask and kind of weights: see `measure`.
        similar: One for each image, part and kind of random weights: the rank correlation of its map with the trained
            network's.
        problems: A line for each image or mask that could not be read, and for each empty mask.
    """

    rows: list[Row] = field(default_factory=list)
    similar: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def correct(self) -> Measurements:
        """The results of the images whose prediction is right."""
        rows, similar = (
            [row for row in table if row["prediction"] == row["label"]] for table in (self.rows, self.similar)
        )
        return Measurements(rows, similar)


def measure(
    predictor: Predictor,
    records: Sequence[Record],
    *,
    target: str | None = None,
    threshold: float = THRESHOLD,
    batch_size: int = 8,
    seed: int = 0,
    on_explained: Callable[[], object] | None = None,
) -> Measurements:
    """Score the maps of every part on the images that have masks.

    Every image is explained three times for the same class: by the trained network, by one with random heads, and by
    one that is random everywhere. A row holds the image's ``path, label, prediction, target, patient_id``; ``part``,
    ``mask`` and ``weights``; ``share`` and the measures of `localisation`, NaN for a map that is zero or flat, whose
    reason is in ``refused``.

    Args:
        predictor: The model.
        records: The images; those without a mask are left out.
        target: The class to explain; by default the predicted one.
        threshold: Of the IoU.
        batch_size: Images the network sees at once.
        seed: Of the random weights.
        on_explained: Called after each explanation.
    """
    found = Measurements()
    usable = [(r, masks) for r in records if (masks := _read_masks(r, found.problems))]
    parts = available_parts(predictor)
    trained: dict[Path, Explanation] = {}
    for weights in WEIGHTS:
        paths = [r.path for r, _ in usable]
        # The random networks explain the class of the trained one, whatever they predict themselves.
        targets = target if weights == TRAINED else [trained[path].target for path in paths]
        explainer = predictor if weights == TRAINED else _random_predictor(predictor, weights, seed)
        stream = explain(explainer, paths, target=targets, parts=parts, batch_size=batch_size)
        for (record, masks), e in zip(list(usable), stream, strict=True):  # a copy: the loop drops unreadable images
            if on_explained is not None:
                on_explained()
            if e.error:
                found.problems.append(e.error)
                usable = [(r, m) for r, m in usable if r.path != record.path]
                continue
            first = trained.setdefault(record.path, e)
            about = {"path": record.name, "label": record.label, "prediction": first.prediction}
            about |= {"target": first.target, "patient_id": record.patient_id}
            found.rows += _score(e, masks, about, parts, weights, threshold)
            if weights != TRAINED:
                found.similar += [about | {"part": p, "weights": weights, "rank": _rank(first, e, p)} for p in parts]
    return found


def summarise(found: Measurements) -> dict[str, list[Row]]:
    """Means over the images, with 95 % intervals by resampling patients.

    Returns:
        ``localisation``: for each part, mask and measure the number of ``images`` and of ``flat`` maps among them
        (these have no value), ``mean`` and ``interval``; ``chance``, the mask's mean share of the images that have a
        value; ``random``, the mean under a random network, and ``random_flat``, its maps without a value; the paired
        differences ``above_chance`` and ``above_random``, intervals too. ``similarity``: for each part and kind of
        random weights the rank correlation.
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
            scores.append(
                {
                    "part": part,
                    "mask": mask,
                    "measure": name,
                    "images": len(own),
                    "flat": int(np.isnan(value).sum()),
                    "mean": mean,
                    "interval": interval,
                    "chance": float(share[~np.isnan(value)].mean()) if mean is not None else float(share.mean()),
                    "above_chance": mean_interval(value - share, patients)[1],
                    "random": mean_interval(random, patients)[0],
                    "random_flat": int(np.isnan(random).sum()),
                    "above_random": mean_interval(value - random, patients)[1],
                }
            )
    for (part, weights), rows in _grouped(found.similar, "part", "weights").items():
        rank = _column(rows, "rank")
        mean, interval = mean_interval(rank, [row["patient_id"] for row in rows])
        counts = {"images": len(rows), "flat": int(np.isnan(rank).sum())}
        similar.append({"part": part, "weights": weights, **counts, "rank_correlation": mean, "interval": interval})
    return {"localisation": scores, "similarity": similar}


def _random_predictor(predictor: Predictor, stage: str, seed: int) -> Predictor:
    models = [randomise(model, stage, seed + i) for i, model in enumerate(predictor.models)]
    return Predictor(models, device=str(predictor.device), dtype=predictor.precision)


def _read_masks(record: Record, problems: list[str]) -> dict[str, NDArray[np.bool_]]:
    """The masks of an image that can be used; the others are added to the problems."""
    masks = {}
    for name, path in (("lung", record.lung_mask), ("lesion", record.lesion_mask)):
        if path is None:
            continue
        try:
            mask = read_image(path) > 0
        except ValueError as error:
            problems.append(str(error))
            continue
        if mask.any():
            masks[name] = mask
        else:
            problems.append(f"{path}: the mask is empty")
    return masks


def _score(
    e: Explanation, masks: dict[str, NDArray[np.bool_]], about: Row, parts: Sequence[str], weights: str, limit: float
) -> Iterator[Row]:
    height, width = e.image.shape[:2]
    for part in parts:
        cam = None if part in e.refused else e.map(part)
        for name, mask in masks.items():
            if mask.shape != (height, width):
                mask = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
            scores = {"share": float(mask.mean()), **dict.fromkeys(MEASURES, float("nan"))}
            if cam is not None:
                scores = localisation(cam, mask, limit)
            keys = {"part": part, "mask": name, "weights": weights}
            yield about | keys | scores | {"refused": e.refused.get(part, "")}


def _rank(one: Explanation, other: Explanation, part: str) -> float:
    if part in one.refused or part in other.refused:
        return float("nan")
    return similarity(one.grids[part], other.grids[part])


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows that agree in these keys, in the order in which they come first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], np.float64)
