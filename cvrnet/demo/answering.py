"""Compute everything that the demo's page shows for an image. This module does not depend on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageError
from cvrnet.data.drawing import draw_film
from cvrnet.data.series import arrange
from cvrnet.errors import UserError
from cvrnet.explain import available_parts, explain_classes
from cvrnet.inference import Prediction, Predictor
from cvrnet.inference.decide import Decide
from cvrnet.inference.prediction import GATE
from cvrnet.inference.uncertainty import UNCERTAINTY
from cvrnet.metrics.operating_points import OperatingPoint, threshold_warnings

EXAMPLES = {"NOR": "Clear lungs", "NCP": "One consolidation", "CVP": "Ground glass"}
"""Labels of the synthetic radiographs, and their names on the page."""
_EXAMPLE_SIZE = 512
COVERAGE, ABSTAIN = 0.9, 0.2  # share of images whose prediction set has the true class; share to pass to a human
MOST_MAPS = 20  # most classes that get maps; if the model has more classes, the most probable classes get maps


@dataclass(frozen=True)
class Upload:
    """A stored file, and the name that its sender gave it."""

    path: Path
    name: str


@dataclass(frozen=True)
class Answer:
    """The prediction for one image, the maps of the image, and the decisions about it.

    ``image`` is uint8 (H, W) or (H, W, 3). ``maps[class][part]`` is a map (h, w) in 0..1, or a sentence that says why
    this map is missing; the part is the whole network, an encoder or a head. If the model has no maps at all, ``maps``
    is empty. ``decided`` has the prediction set (the classes that the image may belong to), and whether to pass the
    image to a human; see `cvrnet.inference.decide`.
    """

    name: str
    image: NDArray[np.uint8]
    prediction: Prediction
    maps: dict[str, dict[str, NDArray[np.float32] | str]] = field(default_factory=dict)
    decided: Mapping[str, Any] = field(default_factory=dict)
    task: str = "multiclass"  #: or ``multilabel``: the classes are findings, and an image may have several findings


class Answering:
    """Computes the `Answer` for an image (prediction, maps and decisions), or a table for many images.

    The constructor computes the maps of an example image, to find out whether the model has maps. `parts` are the names
    of the parts with maps, as in `cvrnet.explain`; if no part has maps, `no_maps` says why. `members` is a pair:
    the number of folds, and the number of heads of each fold (1 if the model does not average their probabilities).
    `points[name][class]` is the operating point (threshold) of a class; the name is a rule, such as ``youden``.
    `warnings` are sentences about the thresholds and the prediction sets.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.classes, self.task = predictor.classes, predictor.task
        self.members = (len(predictor.models), predictor.num_heads if predictor.averages_probabilities else 1)
        self.points: dict[str, dict[str, OperatingPoint]] = {}
        for point in predictor.decisions.operating_points:
            self.points.setdefault(point.name, {})[point.class_name] = point
        known = predictor.decisions
        coverage, abstain = COVERAGE if known.prediction_sets else None, ABSTAIN if known.abstention else None
        self._decide = Decide(known, self.classes, coverage=coverage, abstain=abstain)
        self.warnings = [*threshold_warnings(known.operating_points), *self._decide.warnings]
        self.parts: list[str] = []
        self.no_maps = ""
        example = self.example("NOR")
        try:
            explain_classes(predictor, example.image, self.classes[:1], parts := available_parts(predictor))
            self.parts = parts
        except UserError as error:
            self.no_maps = str(error)

    @property
    def description(self) -> str:
        """The architecture, the number of folds and heads, and the size of the images, in one line."""
        cfg: Any = self._predictor.models[0].pretrained_cfg
        folds, heads = self.members
        height, width = self._predictor.preprocessing.input_size[1:]
        parts = [str(cfg["architecture"])]
        parts += [f"{folds} folds"] if folds > 1 else []
        parts += [f"{heads} heads"] if heads > 1 else []
        return ", ".join([*parts, f"images of {height} × {width} pixels"])

    def example(self, label: str) -> Answer:
        """Return the answer for a synthetic radiograph, drawn in memory."""
        image, _, _ = draw_film(label, seed=0, patient=31, image=31, size=_EXAMPLE_SIZE)
        colour = image if self._predictor.preprocessing.mode == "L" else np.repeat(image[..., None], 3, 2)
        name = f"Synthetic radiograph: {EXAMPLES[label].lower()}"
        seen, _ = self._predictor.preprocessing.cut(name, colour)
        return self._answer(name, seen)

    def file(self, upload: Upload) -> Answer:
        """Return the answer for an image file; an error message contains the upload's name but no path."""
        if len(list(arrange([upload.path]))) > 1:
            raise UserError(f"{upload.name}: a file of several frames; use “Many images” to classify each frame")
        try:
            image = self._predictor.preprocessing.read(upload.path)
        except ImageError as error:
            raise UserError(f"{upload.name}: {error.reason}") from None
        return self._answer(upload.name, image)

    def table(
        self, uploads: Sequence[Upload], progress: Callable[[int, int], object] | None = None
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Return the columns of ``cvrnet predict --uncertainty``, and a row for each image or frame.

        Files that cannot be read also have a row. ``progress`` is called after each row with the number of rows done
        and the total.
        """
        names = {upload.path.name: upload.name for upload in uploads}
        slices = [slice_.path for slice_ in arrange(upload.path for upload in uploads)]
        columns = ["path", "prediction", *(f"prob_{name}" for name in self.classes), *UNCERTAINTY]
        columns += [*(GATE if self._predictor.has_gate else ()), "error"]
        rows = []
        for prediction in self._predictor.stream(slices):
            file, hash_, frame = prediction.path.name.partition("#")  # "FILE#2": the second frame of FILE
            name = f"{names[file]}{hash_}{frame}"
            error = prediction.error.replace(str(prediction.path), name).removeprefix(f"{name}: ")
            rows.append({**dict.fromkeys(columns), **prediction.row(self.classes), "path": name, "error": error})
            if progress:
                progress(len(rows), len(slices))
        return columns, rows

    def _answer(self, name: str, image: NDArray[np.uint8]) -> Answer:
        predictor = self._predictor
        pixels = predictor.preprocessing.resize(image)
        (prediction,) = predictor.answer([(Path(name), pixels)], heads=predictor.averages_probabilities)
        if prediction.error:
            raise UserError(prediction.error)
        targets = [self.classes[k] for k in sorted(prediction.probabilities.argsort()[-MOST_MAPS:])]
        maps = explain_classes(predictor, image, targets, self.parts) if self.parts else {}
        return Answer(name, image, prediction, maps, self._decide(prediction.probabilities), self.task)
