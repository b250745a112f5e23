"""Predict with trained models: one fold, or all folds of a run as an ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cvrnet.data import to_batch
from cvrnet.data.finding_labels import join_findings
from cvrnet.devices import select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.heads import to_probabilities
from cvrnet.heads.novelty import NoveltyHead, unlike
from cvrnet.inference.decide import Decide
from cvrnet.inference.fuse_batch_norm import fuse_batch_norm
from cvrnet.inference.head_logits import HeadLogits, averages_probabilities
from cvrnet.inference.prediction import Prediction
from cvrnet.inference.prefetch import read_ahead
from cvrnet.inference.uncertainty import mutual_information, with_complements
from cvrnet.metrics.abstention import entropy
from cvrnet.metrics.decisions import Decisions
from cvrnet.runs.checkpoint import (
    checkpoint_task,
    checkpoint_unit,
    find_checkpoints,
    load_checkpoint,
    refuse_bags,
    shared_settings,
)
from cvrnet.runs.decisions import load_decisions
from cvrnet.runs.novelty import load_novelty


class Predictor:
    """Classifies image files with a trained model, or with the folds of a run as an ensemble.

    The probabilities are the mean over the folds of each fold's probabilities, which are themselves means over the
    heads (v2 section 4.3).

    Args:
        models: Networks with the same classes and preprocessing. They are moved to the device and set to evaluation
            mode, and otherwise used unchanged. (:meth:`from_pretrained` also folds batch norm into the convolutions.)
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto`` takes the fastest on the device.
        compile: Run the networks through ``torch.compile``: faster after a compilation of seconds to minutes. A string
            is its mode; ``"reduce-overhead"`` records CUDA graphs.
        any_body_part: Read DICOM files of any part of the body, not only of the chest.

    Raises:
        UserError: The models differ in classes or preprocessing, or the device or dtype is not available.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = False,
        any_body_part: bool = False,
    ) -> None:
        self.device = select_device(device)  #: where the models are
        self.precision = select_precision(dtype, self.device)  #: number format: ``fp32``, ``bf16`` or ``fp16``
        #: Class names in the order of the probabilities, and the resizing and normalisation saved with the models.
        self.classes, preprocessing = shared_settings(models)
        self.unit = checkpoint_unit(models[0])  #: ``image``, or ``study`` or ``patient`` (`StudyPredictor`)
        self.task = checkpoint_task(models[0])  #: ``multiclass``, or ``multilabel``: the classes are findings
        self.preprocessing = replace(preprocessing, any_body_part=any_body_part)
        #: The models, in float32, for explanations.
        self.models: list[Any] = [m.eval().to(self.device).to(memory_format=torch.channels_last) for m in models]
        #: The thresholds, prediction sets and limits of uncertainty that training chose, if it did.
        self.decisions = Decisions()
        #: For each model, the part that tells how unlike the training images an image is; empty if a model lacks it.
        self.novelty: list[NoveltyHead] = []
        self.compile = compile
        cfg: Any = models[0].pretrained_cfg
        self.name = str(cfg.get("architecture"))  #: the architecture, for messages

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        *,
        folds: Sequence[int] = (),
        compile: bool | str = False,
        any_body_part: bool = False,
    ) -> Predictor:
        """Load a MODEL argument, with batch norm folded into the convolutions; other arguments as in `Predictor`.

        MODEL is a run folder (all its folds, or those in `folds`), a fold folder, ``local-dir:FOLDER``,
        ``hf-hub:user/repo[@revision]``, or an ONNX file that ``cvrnet export`` wrote.

        Raises:
            UserError: The model or fold does not exist.
        """
        if not str(model).lower().endswith(".onnx"):
            folders = find_checkpoints(model, folds)
            models: list[Any] = [fuse_batch_norm(load_checkpoint(folder)) for folder in folders]
            decisions, novelty = load_decisions(folders), load_novelty(folders, models)
        elif folds:
            raise UserError(f"{model} is one model; only the folds of a run can be chosen")
        else:
            from cvrnet.onnx import load_onnx  # here, because onnx is an extra

            models = [load_onnx(model, device, dtype)]
            decisions, novelty = models[0].decisions, []
        predictor = cls(models, device, dtype, compile, any_body_part)
        predictor.name, predictor.decisions = str(model), decisions
        predictor.novelty = [head.to(predictor.device) for head in novelty]
        return predictor

    @property
    def has_gate(self) -> bool:
        """Whether predictions say how unlike the training images an image is."""
        return bool(self.quantiles)

    @property
    def quantiles(self) -> list[NDArray[np.float64]]:
        """Of the distances of each fold's validation images from its training images (`cvrnet.heads.novelty`)."""
        if self.novelty:
            return [head.quantiles.double().cpu().numpy() for head in self.novelty]
        return list(getattr(self.models[0], "quantiles", ()))  # an ONNX file has those of all its folds

    @property
    def averages_probabilities(self) -> bool:
        """Whether the models are CVR-Nets, which also return the probabilities of each head."""
        return all(averages_probabilities(model) for model in self.models)

    @property
    def num_heads(self) -> int:
        """Number of heads; refuses a model that is not a CVR-Net, because it has none."""
        for model in self.models:
            if not averages_probabilities(model):
                raise UserError(f"{model.pretrained_cfg['architecture']} has no heads of its own; expected a CVR-Net")
        return len(self.models[0].groups)

    def __call__(
        self, paths: str | Path | Iterable[str | Path], *, batch_size: int = 8, heads: bool = False
    ) -> list[Prediction]:
        """Classify image files, or a single one.

        Raises:
            UserError: An image cannot be read (:meth:`stream` continues instead).
        """
        predictions = []
        for prediction in self.stream(paths, batch_size=batch_size, heads=heads):
            if prediction.error:
                raise UserError(prediction.error)
            predictions.append(prediction)
        return predictions

    def stream(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        batch_size: int = 8,
        heads: bool = False,
        window: str = "",
    ) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order and in constant memory.

        Args:
            paths: The files, or a single one; an endless generator is allowed.
            batch_size: Images in one forward pass.
            heads: Also give each head's own probabilities.
            window: For CTs in DICOM, the window ``"lung"`` or ``"soft-tissue"`` instead of those in the files.

        Yields:
            One prediction for each file. If the file cannot be read or its numbers overflow, ``error`` is set.

        Raises:
            UserError: Heads were requested and the model has none; or the model gives no numbers for any image (see
                `member_probabilities`).
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; expected a whole number from 1")
        if heads:
            _ = self.num_heads  # raises for a model without heads
        paths = [paths] if isinstance(paths, str | Path) else paths
        images = read_ahead(paths, self.preprocessing, ahead=2 * batch_size, window=window)
        while batch := list(itertools.islice(images, batch_size)):
            readable = [(path, image) for path, image in batch if not isinstance(image, str)]
            answers = iter(self.answer(readable, batch_size, heads=heads))
            for path, image in batch:
                yield self._failure(path, image) if isinstance(image, str) else next(answers)

    def answer(
        self, images: Sequence[tuple[Path, NDArray[np.uint8]]], size: int = 0, *, heads: bool = False
    ) -> list[Prediction]:
        """Classify images that are already read: names and pixels (H, W, C) of the preprocessing's size.

        An image whose probabilities are not numbers has a prediction with ``error`` set.
        """
        if not images:
            return []
        by_head, distances = self._members(to_batch([image for _, image in images]), size)
        return self.predictions([path for path, _ in images], by_head, distances, heads=heads)

    def predictions(
        self,
        paths: Sequence[Path],
        by_head: NDArray[np.float64],
        distances: NDArray[np.float64],
        *,
        heads: bool = False,
    ) -> list[Prediction]:
        """The predictions that follow from what `member_probabilities` gives, and the distances from training images.

        ``distances`` are (N, folds), or (N, 0) for a model without a gate.
        """
        members = by_head.reshape(-1, *by_head.shape[2:])  # (folds * heads, N, classes)
        mean = self._calibrate(members.mean(0))
        total, disagreement = self._uncertainty(mean, members)
        away = unlike(distances, self.quantiles)
        return [
            Prediction(
                path,
                label=self._label(mean[i]),
                probabilities=mean[i],
                heads=by_head[:, :, i].mean(0) if heads else None,
                predictive_entropy=float(total[i]),
                mutual_information=float(disagreement[i]),
                unlike_training=float(away[i]),
                distances=distances[i],
            )
            if np.isfinite(mean[i]).all()
            else self._failure(path, f"{path}: {self.overflow}")
            for i, path in enumerate(paths)
        ]

    def _label(self, probabilities: NDArray[np.float64]) -> str:
        if self.task == "multiclass":
            return self.classes[int(probabilities.argmax())]
        return join_findings([name for name, p in zip(self.classes, probabilities, strict=True) if p >= 0.5])

    def _uncertainty(
        self, mean: NDArray[np.float64], members: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The predictive entropy and the mutual information of each image, (N,)."""
        if self.task == "multiclass":
            return entropy(mean), mutual_information(members)
        mean, members = with_complements(mean), with_complements(members)
        return entropy(mean).sum(-1), mutual_information(members).sum(-1)

    @property
    def overflow(self) -> str:
        """The reason why an image has no prediction although the model predicts others."""
        advice = "" if self.precision == "fp32" else "; fp32 (--amp fp32) has a larger range"
        return f"the prediction of {self.name} is not a number (overflow in {self.precision}{advice})"

    def _failure(self, path: Path, error: str) -> Prediction:
        return Prediction(path, "", np.full(len(self.classes), np.nan), error=error)

    def probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Return the mean probabilities over models and heads: (N, classes); except for findings, rows sum to one.

        The images are uint8 (N, C, H, W), of the preprocessing's size. If the model was calibrated
        (``cvrnet calibrate``), these are the calibrated probabilities.
        """
        return self._calibrate(self.member_probabilities(images).mean((0, 1)))

    def _calibrate(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        calibration = self.decisions.calibration
        return probabilities if calibration is None else calibration(probabilities)

    def member_probabilities(self, images: Tensor, size: int = 0) -> NDArray[np.float64]:
        """Return the probabilities of every member of the ensemble, not calibrated: (folds, heads, N, classes).

        The images are those of `probabilities`. Models without heads count as having one. With compiled networks, a
        batch of fewer images than `size` is filled up, because the network would be compiled again for another size.

        Every prediction comes from this method. Rows of an image whose numbers overflow are NaN.

        Raises:
            UserError: The model cannot compute images of this size, or its output is NaN even for a grey image, because
                its weights, mean or std are not finite.
        """
        return self._members(images, size)[0]

    def _members(self, images: Tensor, size: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`member_probabilities`, and the distances from the training images: (N, folds), (N, 0) without a gate."""
        refuse_bags(self.unit, "this")
        count = len(images)
        if self.compile and count < size:
            images = torch.cat([images, images[-1:].expand(size - count, *images.shape[1:])])
        probabilities, distances = self._compute(images)
        if not np.isfinite(probabilities).all():
            grey, _ = self._compute(torch.full_like(images, 128))
            if not np.isfinite(grey).all():
                reduced = "" if self.precision == "fp32" else f", or they overflow in {self.precision}: try fp32"
                raise UserError(
                    f"{self.name} predicts NaN for every image, even for a grey one: "
                    f"its weights, mean or std are not finite{reduced}"
                )
        return probabilities[:, :, :count], distances[:count]

    def decide(
        self,
        probabilities: ArrayLike,
        *,
        operating_point: str = "",
        coverage: float | None = None,
        by_class: bool = False,
        abstain: float | None = None,
    ) -> dict[str, Any]:
        """Decide about an image by its probabilities, (C,); arguments, result and errors: `cvrnet.inference.decide`."""
        return Decide(self.decisions, self.classes, operating_point, coverage, by_class, abstain)(probabilities)

    def _compute(self, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.device.type == "cuda":
            images = images.pin_memory()
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        x = x.contiguous(memory_format=torch.channels_last)
        try:
            with torch.inference_mode():
                # Cloned, because CUDA graphs write the next output to the same memory.
                answers = [[part.clone() for part in network(x)] for network in self._networks]
            logits, distances = torch.stack([a[0] for a in answers]), torch.cat([a[1] for a in answers], 1)
        except UserError:
            raise
        except Exception as error:  # the network's own code may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if self.compile:
                raise UserError(
                    f"torch.compile failed ({reason}); install a C++ compiler if none was found, or predict without "
                    "compile"
                ) from error
            raise UserError(f"{self.name} cannot compute images of size {tuple(x.shape[1:])}: {reason}") from error
        if logits.shape[2:] != (len(images), len(self.classes)):
            raise UserError(
                f"{self.name} returns logits of shape {tuple(logits.shape[2:])} for {len(images)} images; "
                f"expected one for each of its {len(self.classes)} classes"
            )
        # In float64, so that the means over members and the entropies add no rounding that matters.
        return to_probabilities(logits.cpu().double(), self.task).numpy(), distances.cpu().double().numpy()

    @cached_property
    def _networks(self) -> list[Any]:
        """The networks that prediction runs, made at the first prediction, because explanations do not need them."""
        novelty: Sequence[NoveltyHead | None] = self.novelty or [None] * len(self.models)
        networks: list[Any] = [
            HeadLogits(model, self.precision, head) for model, head in zip(self.models, novelty, strict=True)
        ]
        if not self.compile:
            return networks
        mode = self.compile if isinstance(self.compile, str) else None
        # On a CPU, freezing makes the weights constants, and the compiler lays them out for its kernels.
        freeze = mode is None and self.device.type == "cpu"
        options: Any = {"options": {"freezing": True}} if freeze else {"mode": mode}
        return [torch.compile(network, dynamic=False, **options) for network in networks]
