"""Predict each image with a trained model: as it is, without the lungs, and with only the lungs.

The idea comes from Maguolo and Nanni (Information Fusion 76, 2021). They trained networks on images with the lungs
blacked out; these networks recognised COVID-19 as well as networks trained on whole images. Here the lungs are hidden
from a model that was trained on whole images. See also DeGrave, Janizek and Lee (Nature Machine Intelligence 3, 2021).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cvrnet.data import Record, to_batch
from cvrnet.data.lung_masks import read_mask as read_mask
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.runs.checkpoint import shared_settings
from cvrnet.runs.held_out import held_out

WHOLE, WITHOUT, ONLY = "whole image", "without the lungs", "only the lungs"
BATCH = 16


class Views(NamedTuple):
    """The versions of one image that a model classifies: whole, without the lungs, and with only the lungs."""

    images: dict[str, np.ndarray]  # view -> uint8 (H, W, C); without a usable lung mask, only the whole image
    remains: float = 1.0  # share of the image that is left when the lungs are hidden
    problem: str = ""  # why the lung mask cannot be used


class Examination:
    """Classifies the versions of each image (`Views`) in batches: whole, without the lungs, and with only the lungs.

    All probabilities are kept in memory, but only a few images at a time (see `add`).

    All models must have equal classes and preprocessing. `of` maps the name of an image to the indices of the models
    that predict it; the probabilities of these models are averaged. Images without an entry in `of` are skipped.
    `known` says whether the models' training images are known (`HeldOut.known`).
    """

    def __init__(self, models: Sequence[Predictor], of: Mapping[str, tuple[int, ...]], known: bool) -> None:
        self.models, self.of, self.known = models, of, known
        self.classes, _ = shared_settings([m for predictor in models for m in predictor.models])
        self.preprocessing = models[0].preprocessing
        self.records: list[Record] = []  # the images that are predicted
        self.remains: dict[str, float] = {}  # name -> `Views.remains`, if the mask is usable
        self.problems: list[tuple[Record, str]] = []  # images with an unusable lung mask, and the reason
        self._probabilities: dict[tuple[str, str], np.ndarray] = {}  # (view, name) -> (classes,)
        self._waiting: dict[tuple[int, ...], list[tuple[str, str, np.ndarray]]] = defaultdict(list)

    @classmethod
    def from_pretrained(cls, model: str | Path, records: Sequence[Record], device: str = "auto") -> Examination:
        """Load the models of a run or fold folder, of ``local-dir:FOLDER`` or of ``hf-hub:user/repo``.

        If the training images are known, each image is predicted only by models that were not trained on its patient.

        Raises:
            UserError: The model cannot be loaded, or it predicts findings, of which an image may have several.
        """
        asked = held_out(model, records)
        predictors = [Predictor.from_pretrained(one, device=device) for one in asked.models or [str(model)]]
        if any(predictor.task == "multilabel" for predictor in predictors):
            raise UserError(
                f"{model} predicts findings, of which an image may have several; the audit needs a model that predicts "
                "one class for each image: leave --model out, and use `cvrnet evaluate` for the model"
            )
        return cls(predictors, asked.models_for_image, asked.known)

    def views(self, record: Record, pixels: np.ndarray) -> Views | None:
        """Make the `Views` of a decoded image, (H, W) or (H, W, 3); None if no model is to classify it. Thread-safe."""
        if record.name not in self.of:
            return None
        resize = self.preprocessing.resize
        whole = {WHOLE: resize(pixels)}
        if record.lung_mask is None or self.preprocessing.lungs:  # a model with --lungs sees only the lungs
            return Views(whole)
        try:
            lungs = read_mask(record.lung_mask, pixels.shape[:2])
        except UserError as error:
            return Views(whole, problem=str(error))
        # Hide the lungs' bounding box: if only the area inside their outline were hidden, the heart's shape and the
        # disease itself would remain visible.
        box = bounding_box(lungs)
        parts = {WITHOUT: resize(keep(pixels, ~box)), ONLY: resize(keep(pixels, lungs))}
        return Views(whole | parts, remains=float(1 - box.mean()))

    def add(self, record: Record, views: Views | None) -> None:
        """Queue the views of an image for the models that predict it; predict when the queue has a full batch."""
        if views is None:
            return
        self.records.append(record)
        if views.problem:
            self.problems.append((record, views.problem))
        if WITHOUT in views.images:
            self.remains[record.name] = views.remains
        models = self.of[record.name]
        self._waiting[models] += [(view, record.name, image) for view, image in views.images.items()]
        if len(self._waiting[models]) >= BATCH:
            self._predict(models)

    def probabilities(self, view: str, records: Sequence[Record]) -> np.ndarray:
        """Return the probabilities (N, classes) for one view of N images, all of which were given to `add`."""
        for models in [models for models, queue in self._waiting.items() if queue]:
            self._predict(models)
        rows = [self._probabilities[view, r.name] for r in records]
        return np.array(rows).reshape(len(records), len(self.classes))

    def _predict(self, models: tuple[int, ...]) -> None:
        batch, self._waiting[models] = self._waiting[models][:BATCH], self._waiting[models][BATCH:]
        images = to_batch([image for _, _, image in batch])
        table = np.mean([self.models[i].probabilities(images) for i in models], axis=0)
        for (_, name, _), row in zip(batch, table, strict=True):
            if not np.isfinite(row).all():
                raise UserError(f"{name}: {self.models[models[0]].overflow}")
        self._probabilities |= {(view, name): row for (view, name, _), row in zip(batch, table, strict=True)}


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """Return the smallest rectangle around a mask, as a mask.

    >>> bounding_box(np.eye(4, dtype=bool)[:3]).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    box = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def keep(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Set the pixels outside the mask ``kept`` to the mean of the pixels inside it.

    The mean of the whole image would reveal something of the hidden part, because a diseased lung is brighter. Black
    would add an edge around the hidden part.

    >>> keep(np.array([[10, 20], [30, 255]], np.uint8), np.array([[True, True], [True, False]])).tolist()
    [[10, 20], [30, 20]]
    """
    level = np.rint(pixels[kept].mean(axis=0)) if kept.any() else np.full(pixels.shape[2:], 127.0)
    return np.where(kept if pixels.ndim == 2 else kept[..., None], pixels, level.astype(np.uint8))
