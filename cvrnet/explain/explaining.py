"""Compute Grad-CAM maps of image files, for any class and any part of the network, averaged over the folds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cvrnet.data import ImageError, check_classes, to_batch
from cvrnet.data.lung_masks import Box
from cvrnet.devices import autocast
from cvrnet.errors import UserError
from cvrnet.explain.gradcam import NETWORK, grad_cam, map_parts, refusal
from cvrnet.inference import Predictor


@dataclass(frozen=True)
class Explanation:
    """The Grad-CAM maps of one image for one class."""

    path: Path  #: the image
    prediction: str = ""  #: the most probable class; "" if there is no prediction
    target: str = ""  #: the class that the maps explain
    probability: float = float("nan")  #: probability of ``target``
    image: NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, 0), np.uint8)
    )  #: the image as read, (H, W) or (H, W, 3)
    grids: dict[str, NDArray[np.float32]] = field(default_factory=dict)  #: part -> its map (h, w) in 0..1
    refused: dict[str, str] = field(default_factory=dict)  #: part -> the sentence that says why the part has no map
    error: str = ""  #: why the image has no prediction; "" if it has a prediction
    #: top, left, bottom and right of the box that the network sees, such as the lungs' box; None: the whole image
    box: Box | None = None

    def map(self, part: str = NETWORK, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Return the map of one part, enlarged to the image's size or to ``size`` (H, W): float32 in 0..1, maximum 1.

        The map is zero outside ``box``, because the network saw only the image inside this box.

        Raises:
            UserError: The part has no map; the message contains the sentence in ``refused``.
        """
        if part in self.refused:
            raise UserError(f"{self.path}: {part}: {self.refused[part]}")
        whole = self.image.shape[:2]
        if self.box is None or self.box == (0, 0, *whole):
            return enlarge(self.grids[part], size or whole)
        top, left, bottom, right = self.box
        large = np.zeros(whole, np.float32)
        large[top:bottom, left:right] = enlarge(self.grids[part], (bottom - top, right - left))
        return large if size in (None, whole) else enlarge(large, size or whole)


def explain(
    predictor: Predictor,
    paths: Iterable[str | Path],
    *,
    target: str | Sequence[str] | None = None,
    parts: Sequence[str] = (NETWORK,),
    batch_size: int = 8,
) -> Iterator[Explanation]:
    """Explain image files with Grad-CAM, in their order and one batch at a time; average the maps over folds.

    Yield an explanation for each file; if a file has no prediction, ``error`` of its explanation says why. ``target``
    is the class to explain: one class for all images, or a class for each image; by default the predicted class.
    ``parts`` are some of the names that `available_parts` returns.

    Raises:
        UserError: The class or a part is unknown, the model has no maps, or ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}; expected a whole number of at least 1")
    targets = itertools.repeat(target) if target is None or isinstance(target, str) else iter(target)
    work = zip(map(Path, paths), targets, strict=False)
    while batch := list(itertools.islice(work, batch_size)):
        yield from _explain_batch(predictor, batch, parts)


def explain_classes(
    predictor: Predictor, image: NDArray[np.uint8], targets: Sequence[str], parts: Sequence[str]
) -> dict[str, dict[str, NDArray[np.float32] | str]]:
    """Return the maps of one image for several classes, from one pass through the encoders.

    The image is uint8 (H, W) or (H, W, 3), as ``predictor.preprocessing.read`` returns it: grey or RGB, as
    ``predictor.preprocessing.mode`` says.

    Returns:
        ``result[class][part]`` is the part's map on the grid of its feature maps, float32 (h, w) in 0..1, or a sentence
        that says why there is no map.

    Raises:
        UserError: See `explain`.
    """
    check_classes(targets, predictor.classes)
    numbers = [predictor.classes.index(name) for name in targets]
    cams = _maps(predictor, to_batch([predictor.preprocessing.resize(image)]), numbers, parts)
    return {
        name: {part: refusal(cams[part][k], name) or cams[part][k].numpy() for part in parts}
        for k, name in enumerate(targets)
    }


def available_parts(predictor: Predictor) -> list[str]:
    """Return the names of a model's parts: ``"network"``; for a CVR-Net also its encoders and heads (``"P1"``)."""
    return list(map_parts(predictor.models[0]))


def panel_names(parts: Sequence[str]) -> list[str]:
    """Return headings for the maps of these parts, as the papers name them.

    >>> panel_names(["network", "resnet50", "legacy_xception", "P1"])
    ['CVR-Net', 'encoder 1: resnet50', 'encoder 2: legacy_xception', 'head P1']
    """
    names, encoders = [], 0
    for part in parts:
        if part == NETWORK:
            names.append("CVR-Net" if len(parts) > 1 else "network")
        elif part.startswith("P") and part[1:].isdigit():
            names.append(f"head {part}")
        else:
            encoders += 1
            names.append(f"encoder {encoders}: {part}")
    return names


def enlarge(grid: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize a map to (height, width) by bilinear interpolation, and scale it to a maximum of 1 again."""
    height, width = size
    large = np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(large / large.max(), 0, 1)


def _explain_batch(
    predictor: Predictor, batch: Sequence[tuple[Path, str | None]], parts: Sequence[str]
) -> list[Explanation]:
    classes, preprocessing = predictor.classes, predictor.preprocessing
    done: dict[int, Explanation] = {}
    whole: dict[int, NDArray[np.uint8]] = {}
    images: dict[int, NDArray[np.uint8]] = {}  # the parts of the images that the network sees
    boxes: dict[int, Box] = {}
    for number, (path, _) in enumerate(batch):
        try:
            whole[number] = preprocessing.read_whole(path)
            images[number], boxes[number] = preprocessing.cut(path, whole[number])
        except ImageError as error:
            done[number] = Explanation(path, error=str(error))
    answers: dict[int, NDArray[np.float64]] = {}
    if images:
        table = predictor.probabilities(to_batch([preprocessing.resize(image) for image in images.values()]))
        answers = {number: row for number, row in zip(images, table, strict=True) if np.isfinite(row).all()}
        for number in images.keys() - answers.keys():
            done[number] = Explanation(batch[number][0], error=f"{batch[number][0]}: {predictor.overflow}")
    if answers:
        predicted = {number: classes[int(row.argmax())] for number, row in answers.items()}
        targets = {number: batch[number][1] or predicted[number] for number in answers}
        check_classes(targets.values(), classes)
        chosen = [classes.index(name) for name in targets.values()]
        cams = _maps(predictor, to_batch([preprocessing.resize(images[number]) for number in answers]), chosen, parts)
        for row, (number, target) in enumerate(targets.items()):
            reasons = {part: refusal(cams[part][row], target) for part in parts}
            done[number] = Explanation(
                batch[number][0],
                predicted[number],
                target,
                float(answers[number][chosen[row]]),
                whole[number],
                box=boxes[number],
                grids={part: cams[part][row].numpy() for part in parts if not reasons[part]},
                refused={part: reason for part, reason in reasons.items() if reason},
            )
    return [done[number] for number in range(len(batch))]


def _maps(
    predictor: Predictor, images: torch.Tensor, target: Sequence[int], parts: Sequence[str]
) -> dict[str, torch.Tensor]:
    known = available_parts(predictor)
    if unknown := [part for part in parts if part not in known]:
        raise UserError(f"the model has no part {', '.join(unknown)}; expected some of {', '.join(known)}")
    x = predictor.preprocessing.normalize(images.to(predictor.device))
    with autocast(predictor.device, predictor.precision):
        cams = grad_cam(predictor.models, x, torch.tensor(target), parts)
    return {part: cam.cpu() for part, cam in cams.items()}
