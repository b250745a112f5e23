"""Find the lungs in all pictures of a data set: train a segmenter on pictures with masks, then segment the rest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data import ImageError, Preprocessing, Record, make_folds, read_records, write_phantoms
from cvrnet.data.data_set import DataPath
from cvrnet.data.lung_masks import Mask, mask_problem, read_mask
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.lungs.fit import fit_segmenter
from cvrnet.lungs.quality import MEASURES, mask_quality
from cvrnet.lungs.segmenter import Segmenter, square
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.lung_folder import new_lung_folder, write_lungs

LEAST_MASKS = 10
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass
class FoundMasks:
    """The masks that `find_lungs` found, and their quality. A *given* mask is a mask from the data set."""

    records: list[Record]  #: all images of the data set
    segmenter: Segmenter
    quality: list[dict[str, Any]]  #: path, patient_id, fold and `MEASURES` of each image with a usable given mask
    rows: list[dict[str, Any]] = field(default_factory=list)  #: the rows of masks.csv
    #: Path (`Record.name`) of each image with a usable given mask -> the mask that a network found. If `find_lungs`
    #: trains the segmenter, this is the network that was trained on the other folds; else, it is the segmenter.
    masks: dict[str, Mask] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  #: a line for each image or given mask that cannot be used


def find_lungs(
    data: DataPath,
    output: str | Path,
    *,
    segmenter: str | Path | None = None,
    n_folds: int = 5,
    epochs: int = 25,
    size: int = 160,
    phantoms: int = 0,
    seed: int = 0,
    device: str = "auto",
    amp: str = "auto",
    any_body_part: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Find the lungs in all images of a data set; write the masks, a manifest that names them, and their quality.

    Without ``segmenter``, a segmenter is trained on the images that have a lung mask. It is cross-validated: each of
    these images is segmented by a network that was not trained on images of the same patient. With ``segmenter`` (an
    output folder of this function, or its file lungs.safetensors), nothing is trained, and the segmenter's masks
    are compared with the masks of the data set. A message names each mask that cannot be used, and the job continues.

    The folder gets lungs.safetensors (the segmenter), masks/, masks.csv (each mask's origin, area and number of
    connected parts and, if the mask is implausible, the reason), quality.csv, lungs.png (a contact sheet), manifest.csv
    and, last, summary.json.

    ``n_folds`` (at least 2; no patient is in two folds), ``epochs``, ``seed``, ``device`` and ``amp`` are for the
    training. ``size`` is the height and width of the network's input in pixels, a multiple of 32. ``phantoms`` is the
    number of synthetic radiographs that are added to the training images (`cvrnet.data.write_phantoms`). Masks are
    always found on the CPU, in float32. For ``any_body_part``, see `cvrnet.data.read_image`; other arguments: see
    `cvrnet.workflows`.

    Returns:
        The content of summary.json.

    Raises:
        DataError: Rows of the manifest are wrong.
        UserError: Fewer than ten images have a usable mask, and there is no ``segmenter``; an argument is out of
            range; or the folder has files that may not be replaced.
    """
    callbacks = callbacks or Callbacks()
    _check(n_folds, epochs, size, phantoms)
    loaded = Segmenter.load(segmenter) if segmenter is not None else None
    with new_lung_folder(Path(output), overwrite) as (folder, new):
        records = read_records(data, labelled=False, say=callbacks.say)
        reader = Preprocessing((1, size, size), (0.0,), (1.0,), any_body_part=any_body_part)
        usable, problems = _usable_masks(records, reader)
        for problem in problems:
            callbacks.say(f"Error: {problem}")
        if loaded is None:
            if len(usable) < LEAST_MASKS:
                raise UserError(
                    f"found {count(len(usable), 'usable lung_mask')}; expected at least {LEAST_MASKS} to train a "
                    "segmenter; --segmenter FOLDER uses a trained segmenter instead"
                )
            settings: dict[str, Any] = {"epochs": epochs, "seed": seed, "device": device, "amp": amp}
            found = _train(records, usable, reader, n_folds, phantoms, settings, callbacks)
        else:
            found = FoundMasks(records, loaded, [])
            for record in usable:
                _compare(found, record, reader, loaded, "")
        found.problems = problems
        about: dict[str, Any] = {
            "folds": 0 if loaded else n_folds,
            "phantoms": 0 if loaded else phantoms,
            "size": found.segmenter.size,
        }
        about |= {"segmenter": found.segmenter.digest, **_mean_quality(found.quality)}
        return write_lungs(data, folder, new, found, {r.path for r in usable}, reader, about, callbacks)


def _check(n_folds: int, epochs: int, size: int, phantoms: int) -> None:
    for name, value, least in (("n_folds", n_folds, 2), ("epochs", epochs, 1), ("phantoms", phantoms, 0)):
        if value < least:
            raise UserError(f"{name}={value}; expected at least {least}")
    if 0 < phantoms < 12:
        raise UserError(f"phantoms={phantoms}; expected 0, or at least 12")
    if size % 32 or not 64 <= size <= 512:
        raise UserError(f"size={size}; expected a multiple of 32 from 64 to 512")


def _usable_masks(records: Sequence[Record], reader: Preprocessing) -> tuple[list[Record], list[str]]:
    """Return the images with a usable lung mask, and a line for each image whose mask cannot be used."""
    usable, problems = [], []
    for record in records:
        if record.lung_mask is None:
            continue
        try:
            mask = read_mask(record.lung_mask, reader.read_whole(record.path).shape)
        except ImageError as error:
            problems.append(record.problem(f"{error.path.name}: {error.reason}"))
            continue
        if problem := mask_problem(mask):
            problems.append(record.problem(f"{record.lung_mask.name}: the mask is implausible: {problem}"))
        else:
            usable.append(record)
    return usable, problems


def _train(
    records: list[Record],
    usable: Sequence[Record],
    reader: Preprocessing,
    n_folds: int,
    phantoms: int,
    settings: dict[str, Any],
    callbacks: Callbacks,
) -> FoundMasks:
    """Cross-validate, then train the segmenter on all images with usable masks."""
    size = reader.input_size[1]
    # All images get one label: a segmenter needs no labels, and folds by label fail if a class has a single patient.
    folds = make_folds([replace(record, label="lungs", source="") for record in usable], n_folds, settings["seed"])
    pairs = [pair_of(record, reader) for record in usable]
    added = _phantoms(phantoms, reader, settings["seed"])

    def fit(chosen: Sequence[Pair], name: str) -> Segmenter:
        pictures, masks = zip(*chosen, *added, strict=True)
        return fit_segmenter(pictures, masks, progress=callbacks.stage(name), **settings)

    found: FoundMasks | None = None
    quality: list[dict[str, Any]] = []
    masks: dict[str, Mask] = {}
    for fold in range(1, n_folds + 1):
        inside = [pair for pair, own in zip(pairs, folds, strict=True) if own != fold]
        part = FoundMasks(records, fit(inside, f"Training, fold {fold}"), [])
        for record, own in zip(usable, folds, strict=True):
            if own == fold:
                _compare(part, record, reader, part.segmenter, str(fold))
        quality += part.quality
        masks |= part.masks
        callbacks.say(f"fold {fold}: Dice {np.mean([row['dice'] for row in part.quality]):.3f}")
    found = FoundMasks(records, fit(pairs, "Training on all"), quality, masks=masks)
    assert found.segmenter.size == size
    return found


def pair_of(record: Record, reader: Preprocessing) -> Pair:
    """Return an image's pixels and its given mask, resized to the network's input: both uint8 (size, size)."""
    picture, size = reader.read_whole(record.path), reader.input_size[1]
    assert record.lung_mask is not None
    mask = Image.fromarray(read_mask(record.lung_mask, picture.shape)).convert("L")
    return square(picture, size), np.asarray(mask.resize((size, size), Image.Resampling.BOX))


def _phantoms(count: int, reader: Preprocessing, seed: int) -> list[Pair]:
    if not count:
        return []
    with tempfile.TemporaryDirectory(prefix="cvrnet-lungs-") as folder:
        return [pair_of(record, reader) for record in read_records(write_phantoms(folder, count, seed=seed))]


def _compare(found: FoundMasks, record: Record, reader: Preprocessing, segmenter: Segmenter, fold: str) -> None:
    """Compare the segmenter's mask of an image with the given mask; add the mask and the measures to ``found``."""
    picture = reader.read_whole(record.path)
    assert record.lung_mask is not None
    given, mask = read_mask(record.lung_mask, picture.shape), segmenter(picture)
    found.masks[record.name] = mask
    # Distances are also given as a share of the picture's diagonal, because pictures have different sizes.
    scores: dict[str, Any] = mask_quality(mask, given)
    diagonal = float(np.hypot(*picture.shape))
    scores |= {f"{name}_share": scores[name] / diagonal for name in MEASURES[1:]}
    found.quality.append({"path": record.name, "patient_id": record.patient_id, "fold": fold, **scores})


def _mean_quality(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each measure with its 95 % interval (bootstrap over patients), and each fold's mean Dice."""
    if not rows:
        return {"quality": {}}
    patients = [patient_key(row["patient_id"], row["path"]) for row in rows]
    quality: dict[str, Any] = {}
    for name in rows[0]:
        if name not in ("path", "patient_id", "fold"):
            mean, interval = mean_interval([row[name] for row in rows], patients)
            quality[name] = {"mean": mean, "interval": interval}
    dice = np.array([row["dice"] for row in rows])
    quality["dice"] |= {"least": float(dice.min()), "images": len(rows)}
    folds = sorted({row["fold"] for row in rows} - {""})
    quality["dice"]["folds"] = [float(dice[[row["fold"] == fold for row in rows]].mean()) for fold in folds]
    return {"quality": quality}
