"""Predictions from trained models: one fold, or all folds of a run as an ensemble."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cvrnet.data import Preprocessing, to_batch
from cvrnet.devices import select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.inference.networks import HeadLogits, averages_probabilities, compiled
from cvrnet.inference.prefetch import read_ahead
from cvrnet.inference.resolve import load_models
from cvrnet.inference.uncertainty import UNCERTAINTY, mutual_information, predictive_entropy
from cvrnet.runs.checkpoint import checkpoint_classes


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        path: The image.
        label: The most probable class; "" when the image could not be read.
        probabilities: Of each class, (C,).
        heads: Each head's own probabilities, (heads, C), where they were asked for.
        error: Why the image could not be read; "" when it could.
        predictive_entropy: Of the probabilities, in nats: how unsure the ensemble is.
        mutual_information: Of answer and member, in nats: how far the members (folds times heads) disagree; 0 for a
            model of one fold without heads.
    """

    path: Path
    label: str
    probabilities: NDArray[np.float64]
    heads: NDArray[np.float64] | None = None
    error: str = ""
    predictive_entropy: float = math.nan
    mutual_information: float = math.nan

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """As a row of a table: path, prediction, error; of an image that could be read its numbers, too.

        Args:
            classes: The model's, which name the columns ``prob_CLASS`` and, where there are heads, ``head_1_CLASS``.
        """
        row: dict[str, Any] = {"path": str(self.path), "prediction": self.label, "error": self.error}
        if not self.error:
            row |= {f"prob_{name}": float(p) for name, p in zip(classes, self.probabilities, strict=True)}
            row |= {name: getattr(self, name) for name in UNCERTAINTY}
            for i, head in enumerate(() if self.heads is None else self.heads, start=1):
                row |= {f"head_{i}_{name}": float(p) for name, p in zip(classes, head, strict=True)}
        return row


class Predictor:
    """Classifies images from files with one model, or with the mean probability of several (the folds of a run).

    Images are read and resized in threads while the network works, once for all models.

    Args:
        models: Models with the same classes and preprocessing, used as they are: moved to the device, in evaluation
            mode. (:meth:`from_pretrained` folds batch norm into the convolutions, too.)
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto`` takes what is fast on the device.
        compile: Run the networks through ``torch.compile``: faster after a compilation of seconds to minutes. A text is
            its mode; ``"reduce-overhead"`` records CUDA graphs.

    Attributes:
        classes: Class names in the order of the probabilities.
        preprocessing: What is done to an image, as saved with the model.
        models: The models, in float32: what explanations differentiate.
        device: Where they are.
        precision: ``fp32``, ``bf16`` or ``fp16``: what is computed in.

    Raises:
        UserError: The models do not belong together, or the device or dtype is not there.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = False,
    ) -> None:
        self.device = select_device(device)
        self.precision = select_precision(dtype, self.device)
        self.classes = checkpoint_classes(models[0])
        self.preprocessing = Preprocessing.from_model(models[0])
        for model in models[1:]:
            if checkpoint_classes(model) != self.classes or Preprocessing.from_model(model) != self.preprocessing:
                raise UserError("the folds differ in classes or preprocessing; expected models of one run")
        self.models: list[Any] = [m.eval().to(self.device).to(memory_format=torch.channels_last) for m in models]
        self.compile = compile
        self._networks: list[Any] = []

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        folds: Sequence[int] = (),
        compile: bool | str = False,
    ) -> Predictor:
        """Load a MODEL argument.

        Args:
            model: A run folder (all its folds), a fold folder, ``local-dir:FOLDER``, ``hf-hub:user/repo[@revision]``,
                or an ONNX file that ``cvrnet export`` wrote.
            device: As in the constructor.
            dtype: As in the constructor.
            folds: Of a run, only these.
            compile: As in the constructor.

        Raises:
            UserError: There is no such model or fold.
        """
        return cls(load_models(model, folds, device, dtype), device, dtype, compile)

    @property
    def averages_probabilities(self) -> bool:
        """Whether the models have heads of their own: whether they are CVR-Nets."""
        return all(averages_probabilities(model) for model in self.models)

    @property
    def num_heads(self) -> int:
        """How many heads answer.

        Raises:
            UserError: The model has no heads of its own (it is not a CVR-Net).
        """
        for model in self.models:
            if not averages_probabilities(model):
                raise UserError(f"{model.pretrained_cfg['architecture']} has no heads of its own; expected a CVR-Net")
        return len(self.models[0].groups)

    def __call__(self, paths: Iterable[str | Path], *, batch_size: int = 8, heads: bool = False) -> list[Prediction]:
        """Classify image files.

        Raises:
            UserError: An image cannot be read (:meth:`stream` goes on instead).
        """
        predictions = []
        for prediction in self.stream(paths, batch_size=batch_size, heads=heads):
            if prediction.error:
                raise UserError(prediction.error)
            predictions.append(prediction)
        return predictions

    def stream(
        self, paths: Iterable[str | Path], *, batch_size: int = 8, heads: bool = False, window: str = ""
    ) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order and in constant memory.

        Args:
            paths: The files; may be a generator without end.
            batch_size: Images the network sees at once.
            heads: Give each head's own probabilities too.
            window: Of CTs in DICOM, ``"lung"`` or ``"soft-tissue"`` instead of the files' own.

        Yields:
            One prediction a file; a file that cannot be read gives one with ``error`` set.

        Raises:
            UserError: Heads of a model that has none.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; expected a whole number from 1")
        if heads:
            _ = self.num_heads
        images = read_ahead(paths, self.preprocessing, ahead=2 * batch_size, window=window)
        while batch := list(itertools.islice(images, batch_size)):
            answers = iter(self._answer([image for _, image in batch if not isinstance(image, str)], batch_size, heads))
            for path, image in batch:
                if isinstance(image, str):
                    yield Prediction(path, "", np.full(len(self.classes), np.nan), error=image)
                else:
                    yield Prediction(path, **next(answers))

    def _answer(self, images: Sequence[NDArray[np.uint8]], batch_size: int, heads: bool) -> list[dict[str, Any]]:
        """Fields of `Prediction` for each image of a batch."""
        if not images:
            return []
        by_head = self.member_probabilities(to_batch(images), size=batch_size)
        members = by_head.reshape(-1, *by_head.shape[2:])
        mean, unsure, disagreement = members.mean(0), predictive_entropy(members), mutual_information(members)
        return [
            {
                "label": self.classes[int(mean[i].argmax())],
                "probabilities": mean[i],
                "heads": by_head[:, :, i].mean(0) if heads else None,
                "predictive_entropy": float(unsure[i]),
                "mutual_information": float(disagreement[i]),
            }
            for i in range(len(images))
        ]

    def probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Mean probabilities over the models.

        Args:
            images: uint8 (N, C, H, W), of the preprocessing's size.

        Returns:
            (N, classes), rows summing to one.
        """
        return self.member_probabilities(images).mean((0, 1))

    def head_probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Each head's probabilities, averaged over the models.

        Args:
            images: uint8 (N, C, H, W), of the preprocessing's size.

        Returns:
            (heads, N, classes); their mean over the heads is :meth:`probabilities`.

        Raises:
            UserError: The model has no heads of its own (it is not a CVR-Net).
        """
        _ = self.num_heads
        return self.member_probabilities(images).mean(0)

    def member_probabilities(self, images: Tensor, size: int = 0) -> NDArray[np.float64]:
        """Probabilities of every member of the ensemble, from one forward pass of each model.

        Args:
            images: uint8 (N, C, H, W), of the preprocessing's size.
            size: Compiled networks see batches of this size: smaller ones are filled up, not compiled anew.

        Returns:
            (folds, heads, N, classes); models without heads count as having one.

        Raises:
            UserError: ``torch.compile`` failed.
        """
        count = len(images)
        if self.compile and count < size:
            images = torch.cat([images, images[-1:].expand(size - count, *images.shape[1:])])
        x = self._prepare(images)
        with torch.inference_mode():
            try:
                # A copy each: CUDA graphs write the next answer where the last one was.
                each = [network(x).clone() for network in self._ready()]
            except RuntimeError as error:
                if not self.compile:
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"torch.compile failed ({reason}); expected a C++ compiler, or no compile") from error
            logits = torch.stack(each)[:, :, :count].cpu()
        return logits.double().softmax(-1).numpy()

    def _ready(self) -> list[Any]:
        """The networks as prediction runs them, made when first asked for."""
        if not self._networks:
            networks = [HeadLogits(model, self.precision) for model in self.models]
            mode = self.compile if isinstance(self.compile, str) else None
            self._networks = [compiled(n, self.device, mode) for n in networks] if self.compile else [*networks]
        return self._networks

    def _prepare(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda":
            images = images.pin_memory()
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        return x.contiguous(memory_format=torch.channels_last)
