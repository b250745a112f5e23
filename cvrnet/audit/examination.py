"""A trained model is shown each image whole, without the lungs, and with nothing but the lungs.

The idea is that of Maguolo and Nanni ("A critic evaluation of methods for COVID-19 automatic detection from X-ray
images", Information Fusion 76, 2021), whose networks, trained on images with the lungs blacked out, told COVID-19 as
well; here the trained model itself is asked. How models of radiographs come to read something else than disease is
shown by DeGrave, Janizek and Lee ("AI for radiographic COVID-19 detection selects shortcuts over signal", Nature
Machine Intelligence 3, 2021).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from cvrnet.data import ImageError, Preprocessing, Record, check_classes, read_image, to_batch
from cvrnet.errors import UserError

WHOLE, WITHOUT, ONLY = "whole image", "without the lungs", "only the lungs"
BATCH = 16


class Model(Protocol):
    """What is asked of a `cvrnet.Predictor`."""

    classes: list[str]
    preprocessing: Preprocessing

    def probabilities(self, images: Tensor) -> np.ndarray:
        """(N, classes) of uint8 (N, C, H, W)."""


@dataclass(frozen=True)
class Views:
    """One image as the model will see it, uint8 (H, W, C) each, and what was wrong with its lung mask.

    Attributes:
        images: View to picture; the lungs' views are missing where there is no mask.
        remains: Share of the image that is left without the lungs.
        problem: Why the mask cannot be used; ``""`` where it can or there is none.
    """

    images: dict[str, np.ndarray]
    remains: float = 1.0
    problem: str = ""


class Examination:
    """Collects the models' answers, a batch at a time, in constant memory but for the probabilities.

    Args:
        models: `cvrnet.Predictor` each, with the same classes and preprocessing.
        of: Name of an image to the indices of the models to ask (the mean counts); images that are not in it are not
            asked about.
        known: Whether it is known which images the models were trained on.

    Raises:
        UserError: The models do not belong together.
    """

    def __init__(self, models: Sequence[Model], of: Mapping[str, tuple[int, ...]], known: bool) -> None:
        self.models, self.of, self.known = models, of, known
        self.classes, self.preprocessing = models[0].classes, models[0].preprocessing
        if any(m.classes != self.classes or m.preprocessing != self.preprocessing for m in models):
            raise UserError("the folds differ in classes or preprocessing; expected models of one run")
        self.records: list[Record] = []
        self.masked: list[Record] = []
        self.remains: list[float] = []
        self.problems: list[tuple[Record, str]] = []
        self.answers: dict[tuple[str, str], np.ndarray] = {}  # (view, name) to (classes,)
        self._waiting: dict[tuple[int, ...], list[tuple[str, str, np.ndarray]]] = defaultdict(list)

    def check(self, records: Sequence[Record]) -> None:
        """Refuse labels that the model does not know.

        Raises:
            UserError: Names them.
        """
        check_classes((r.label for r in records), self.classes)

    def views(self, record: Record, pixels: np.ndarray) -> Views | None:
        """The pictures to ask about, from the decoded image (H, W) or (H, W, 3); may run in any thread."""
        if record.name not in self.of:
            return None
        resize = self.preprocessing.resize
        whole = {WHOLE: resize(pixels)}
        if record.lung_mask is None:
            return Views(whole)
        try:
            lungs = read_mask(record.lung_mask, pixels.shape[:2])
        except UserError as error:
            return Views(whole, problem=str(error))
        box = bounding_box(lungs)
        parts = {WITHOUT: resize(keep(pixels, ~box)), ONLY: resize(keep(pixels, lungs))}
        return Views(whole | parts, remains=float(1 - box.mean()))

    def add(self, record: Record, views: Views | None) -> None:
        """Ask about an image, when the batch is full."""
        if views is None:
            return
        self.records.append(record)
        if views.problem:
            self.problems.append((record, views.problem))
        if WITHOUT in views.images:
            self.masked.append(record)
            self.remains.append(views.remains)
        queue = self._waiting[self.of[record.name]]
        queue += [(view, record.name, image) for view, image in views.images.items()]
        while len(queue) >= BATCH:
            self._ask(self.of[record.name], queue[:BATCH])
            del queue[:BATCH]

    def finish(self) -> None:
        """Ask about what still waits."""
        for models, queue in self._waiting.items():
            for start in range(0, len(queue), BATCH):
                self._ask(models, queue[start : start + BATCH])
        self._waiting.clear()

    def table(self, view: str, records: Sequence[Record]) -> np.ndarray:
        """Probabilities (N, classes) of images that were asked about."""
        return np.array([self.answers[view, r.name] for r in records]).reshape(len(records), len(self.classes))

    def _ask(self, models: tuple[int, ...], batch: Sequence[tuple[str, str, np.ndarray]]) -> None:
        images = to_batch([image for _, _, image in batch])
        table = np.mean([self.models[i].probabilities(images) for i in models], axis=0)
        self.answers |= {(view, name): row for (view, name, _), row in zip(batch, table, strict=True)}


def read_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A lung mask as bool (H, W), brought to the image's size.

    Raises:
        UserError: It cannot be read, is empty, or has another shape than the image.
    """
    mask = read_image(path)
    mask = mask > mask.max() // 2
    if not mask.any():
        raise ImageError(path, "the mask is empty")
    if abs(np.log(mask.shape[1] * shape[0] / (mask.shape[0] * shape[1]))) > 0.02:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, the image {shape[1]} x {shape[0]}"
        raise ImageError(path, f"the mask has {sizes}")
    if mask.shape == shape:
        return mask
    return np.array(Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """The rectangle around a mask, as a mask.

    >>> bounding_box(np.eye(4, dtype=bool)[:3]).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    box = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def keep(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The image with everything else at the mean of what is kept, so that nothing of what is hidden shows through.

    The mean of the whole image would: it is brighter over a diseased lung. Black would be a new edge at each border.

    >>> keep(np.array([[10, 20], [30, 255]], np.uint8), np.array([[True, True], [True, False]])).tolist()
    [[10, 20], [30, 20]]
    """
    level = np.rint(pixels[kept].mean(axis=0)) if kept.any() else np.full(pixels.shape[2:], 127.0)
    return np.where(kept if pixels.ndim == 2 else kept[..., None], pixels, level.astype(np.uint8))
