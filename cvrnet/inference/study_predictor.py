"""Predict bags (studies or patients) with one trained model, or with the models of all folds as an ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cvrnet.data import ImageCache, to_batch
from cvrnet.data.studies import Study
from cvrnet.errors import UserError
from cvrnet.inference.bag_features import BagAnswers, answer_bags, make_bags
from cvrnet.inference.head_logits import HeadLogits
from cvrnet.inference.prediction import Prediction
from cvrnet.inference.predictor import Predictor
from cvrnet.inference.prefetch import Image, read_ahead


@dataclass(frozen=True)
class StudyPrediction:
    """The prediction for one bag (a study or a patient)."""

    study: Study  #: the bag, with the pictures that could be read
    prediction: Prediction  #: the prediction; its ``path`` is the bag's name
    shares: NDArray[np.float64]  #: each picture's share in each head's prediction, mean over folds, (heads, pictures)
    problems: Sequence[str] = ()  #: a line for each picture that cannot be read


class StudyPredictor:
    """Classifies bags (studies or patients) with models that were trained on bags of pictures.

    Args:
        predictor: The models. `Predictor.unit` must be ``study`` or ``patient``.

    Raises:
        UserError: The models predict single images.
    """

    def __init__(self, predictor: Predictor) -> None:
        if predictor.unit == "image":
            raise UserError(
                f"{predictor.name} predicts single images; expected a model trained with --unit study or --unit patient"
            )
        self.predictor = predictor

    def check(self, studies: Sequence[Study]) -> None:
        """Raise UserError if the models need the days of the pictures, but no bag has pictures of different days.

        If no bag has several pictures, no days are needed.
        """
        several = any(len(study.pictures) > 1 for study in studies)
        if self.predictor.models[0].head.time and several and not any(day for study in studies for day in study.days):
            raise UserError(
                f"{self.predictor.name} needs the days of the pictures, but no {self.predictor.unit} has pictures of "
                "different days: expected the column day in the manifest, with days that are counted from the same "
                f"date for all pictures of a {self.predictor.unit}"
            )

    def stream(
        self, studies: Iterable[Study], *, batch_size: int = 8, heads: bool = False
    ) -> Iterator[StudyPrediction]:
        """Classify bags one after the other; memory does not grow with their number.

        Args:
            studies: The bags; the results are in their order.
            batch_size: Number of pictures in one forward pass.
            heads: Also give each head's own probabilities.
        """
        for_pictures, for_answers = itertools.tee(studies)
        paths = (picture.path for study in for_pictures for picture in study.pictures)
        images = read_ahead(paths, self.predictor.preprocessing, ahead=2 * batch_size)
        for study in for_answers:
            mine = [image for _, image in itertools.islice(images, len(study.pictures))]
            yield self._answer(study, mine, batch_size, heads)

    def _answer(self, study: Study, images: Sequence[Image], batch_size: int, heads: bool) -> StudyPrediction:
        problems = [image for image in images if isinstance(image, str)]
        readable = [image for image in images if not isinstance(image, str)]
        study = study.keep([not isinstance(image, str) for image in images])
        if not readable:
            reason = f"{study.name}: no picture can be read ({len(images)} tried)"
            return StudyPrediction(study, self._failure(study, reason), np.zeros((0, 0)), problems)
        found = self.members(study, readable, batch_size)
        shares = np.mean([answers.shares[0] for answers in found], axis=0)
        by_head = np.stack([answers.by_head[:, 0] for answers in found])  # (folds, heads, classes)
        away = np.zeros((1, 0))
        (prediction,) = self.predictor.predictions([Path(study.name)], by_head[:, :, None], away, heads=heads)
        return StudyPrediction(study, prediction, shares, problems)

    def members(self, study: Study, images: Sequence[NDArray[np.uint8]], batch_size: int) -> list[BagAnswers]:
        """Return the predictions of each model for one bag, whose images (H, W, C) are already read."""
        return [
            answer_bags(model, make_bags(self._vectors(network, images, batch_size), [len(images)], study.days))
            for model, network in zip(self.predictor.models, self._networks, strict=True)
        ]

    def _failure(self, study: Study, error: str) -> Prediction:
        return Prediction(Path(study.name), "", np.full(len(self.predictor.classes), np.nan), error=error)

    def _vectors(
        self, network: HeadLogits, images: Sequence[NDArray[np.uint8]], batch_size: int
    ) -> NDArray[np.float32]:
        """Return the pooled maps of all encoders, (pictures, width)."""
        parts = []
        for start in range(0, len(images), batch_size):
            batch = to_batch(images[start : start + batch_size]).to(self.predictor.device)
            x = self.predictor.preprocessing.normalize(batch).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                parts.append(torch.cat([m.mean((2, 3)) for m in network.maps(x)], 1).cpu())
        return torch.cat(parts).numpy()

    @cached_property
    def _networks(self) -> list[Any]:
        return [HeadLogits(model, self.predictor.precision) for model in self.predictor.models]


def answer_cached(
    model: Any, cache: ImageCache, studies: Sequence[Study], device: str, precision: str, batch_size: int
) -> BagAnswers:
    """Predict bags with a model, from images in a cache; ``batch_size`` is the number of pictures in a forward pass."""
    predictor = StudyPredictor(Predictor([model], device, precision))
    found = [predictor.members(s, [cache.load(p.path) for p in s.pictures], batch_size)[0] for s in studies]
    by_head = np.concatenate([answers.by_head for answers in found], axis=1)
    return BagAnswers(by_head, [answers.shares[0] for answers in found])
