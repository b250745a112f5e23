"""Predict images with one trained model, or with the models of all folds of a run as an ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.data import Preprocessing, Record
from cvrnet.errors import UserError
from cvrnet.inference.decide import Decide
from cvrnet.inference.members import compute_members
from cvrnet.inference.prediction import Prediction, label_of
from cvrnet.inference.prefetch import read_ahead
from cvrnet.inference.uncertainty import uncertainty
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.novelty import unlike


class Predictor:
    """Classifies image files with a trained model, or with the folds of a run as an ensemble.

    Probabilities are the mean over heads, then over folds (second paper, medRxiv 2020.11.07.20227504, section 4.3).

    Args:
        models: Networks with equal classes and preprocessing. They are moved to the device and set to evaluation mode.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``tf32``, ``bf16`` or ``fp16``; ``auto`` is the fastest format on the device.
        compile: Use ``torch.compile``: compilation takes seconds to minutes, then predictions are faster. A string is
            the mode of ``torch.compile``; ``"reduce-overhead"`` records CUDA graphs.
        any_body_part: Read DICOM files of any part of the body, not only of the chest.

    Raises:
        UserError: The models differ in classes or preprocessing, or the device or dtype is not available.
    """

    def __init__(
        self,
        models: Sequence[Any],
        device: str = "auto",
        dtype: str = "auto",
        compile: bool | str = False,
        any_body_part: bool = False,
    ) -> None:
        from cvrnet.inference.torch_engine import TorchEngine  # here, because an ONNX file is predicted without PyTorch

        self._use(TorchEngine(models, device, dtype, compile), Decisions(), any_body_part)

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
        backend: str | None = None,
        images: int | None = None,
        checkpoints: Sequence[Path] = (),
    ) -> Predictor:
        """Load a trained model, with batch norm folded into the convolutions.

        Args:
            model: A run or fold folder, ``local-dir:FOLDER``, ``hf-hub:user/repo[@revision]`` or an exported ONNX file.
            device: As in `Predictor`.
            dtype: As in `Predictor`.
            folds: Numbers of the run's folds to load; all by default.
            compile: As in `Predictor`.
            any_body_part: As in `Predictor`.
            backend: ``torch``, ``openvino``, ``onnxruntime`` or ``auto``. The default for a checkpoint is PyTorch. The
                default for an ONNX file is OpenVINO if it is installed and there are 100 images or more, otherwise ONNX
                Runtime. With ``openvino`` or ``onnxruntime``, a checkpoint is converted once, and the copy is kept in
                the cache. ``auto`` chooses the fastest backend for the number of ``images``.
            images: Number of images that will be predicted, to choose the backend; None means many.
            checkpoints: The result of `cvrnet.runs.checkpoint.find_checkpoints` for the model, if you have it already.

        Raises:
            UserError: The model or a fold does not exist, or the backend cannot run the model.
        """
        from cvrnet.inference.backends import open_model

        predictor = cls.__new__(cls)
        predictor._use(*open_model(model, device, dtype, folds, compile, backend, images, checkpoints), any_body_part)
        return predictor

    def _use(self, engine: Any, decisions: Decisions, any_body_part: bool) -> None:
        self.engine = engine  #: runs the networks: a `TorchEngine`, `ConvertedEngine` or `OnnxEngine`
        #: Class names in the order of the probabilities, and the resizing and normalisation saved with the models.
        self.classes: list[str] = engine.classes
        self.preprocessing: Preprocessing = replace(engine.preprocessing, any_body_part=any_body_part)
        self.unit: str = engine.unit  #: what a prediction is for: ``image``, ``study`` or ``patient``
        self.task: str = engine.task  #: ``multiclass``, or ``multilabel`` if the classes are findings
        #: The thresholds, prediction sets and limits of uncertainty that training chose, if any.
        self.decisions = decisions
        self.quantiles: list[NDArray[np.float64]] = engine.quantiles  # quantiles of each fold's distances

    def use_masks(self, records: Iterable[Record]) -> None:
        """Use these images' lung masks instead of the segmentation network's, if the model sees only the lungs."""
        if self.preprocessing.finder is not None:
            self.preprocessing.finder.use_masks(records)

    def whole_pictures(self) -> dict[Path, str]:
        """Return the pictures that were not reduced to the lungs, with reasons; {} if the model sees whole pictures."""
        return {} if self.preprocessing.finder is None else dict(self.preprocessing.finder.whole)

    @property
    def models(self) -> list[Any]:
        """The PyTorch networks in float32, as Grad-CAM needs them; for an ONNX file, a list with the `OnnxEngine`."""
        return list(self.engine.models)

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return str(self.engine.name)

    @property
    def device(self) -> Any:
        """The device on which the engine computes."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """The number format in which the engine computes, such as ``bf16``."""
        return str(self.engine.precision)

    @property
    def has_gate(self) -> bool:
        """Whether the model can detect unusual images; if not, `Prediction.unlike_training` is NaN."""
        return bool(self.quantiles)

    @property
    def averages_probabilities(self) -> bool:
        """Whether the models average their heads' probabilities, so that each head's probabilities can be requested."""
        return bool(self.engine.averages_probabilities)

    @property
    def num_heads(self) -> int:
        """Number of heads of each network; raises UserError if a model does not average its heads' probabilities."""
        return int(self.engine.num_heads)

    def __call__(
        self, paths: str | Path | Iterable[str | Path], *, batch_size: int = 8, heads: bool = False
    ) -> list[Prediction]:
        """Classify image files, or a single file.

        Raises:
            UserError: An image cannot be read. (:meth:`stream` continues with the next image instead.)
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
        processes: int = 0,
    ) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order and in constant memory.

        Args:
            paths: The files, or a single file; an endless generator is allowed.
            batch_size: Number of images in one forward pass.
            heads: Also give each head's own probabilities.
            window: For CTs in DICOM, the window ``"lung"`` or ``"soft-tissue"`` instead of the windows in the files.
            processes: Number of processes that decode and resize images; with 0, threads of this process do so.

        Yields:
            One prediction for each file. If the file cannot be read, or its probabilities are NaN, ``error`` is set.

        Raises:
            UserError: ``batch_size`` is below 1, the models cannot give ``heads``, or as in `member_probabilities`.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; expected a whole number of at least 1")
        if heads:
            _ = self.num_heads  # raises for a model without heads
        paths = [paths] if isinstance(paths, str | Path) else paths
        images = read_ahead(paths, self.preprocessing, 2 * batch_size, window, processes)
        batches, later = itertools.tee(iter(lambda: list(itertools.islice(images, batch_size)), []))
        pixels = (self._pixels([image for _, image in batch]) for batch in later)
        members = compute_members(self.engine, pixels, batch_size)
        for batch, (by_head, distances) in zip(batches, members, strict=True):
            names = [path for path, image in batch if not isinstance(image, str)]
            answers = iter(self.predictions(names, by_head, distances, heads=heads))
            for path, image in batch:
                yield self._failure(path, image) if isinstance(image, str) else self._with_lungs(next(answers))

    def _with_lungs(self, prediction: Prediction) -> Prediction:
        """Add to a prediction how the image was used (mask, crop or whole), if the model sees only the lungs."""
        steps = self.preprocessing
        if steps.lungs is None or steps.finder is None:
            return prediction
        problem = steps.finder.whole.get(prediction.path, "")
        return replace(prediction, lungs=f"whole picture: {problem}" if problem else steps.lungs.mode)

    def _pixels(self, images: Sequence[NDArray[np.uint8] | str]) -> NDArray[np.uint8]:
        """Return the images that could be read, (N, C, H, W)."""
        channels, height, width = self.preprocessing.input_size
        readable = [image for image in images if not isinstance(image, str)]
        return np.array(readable, np.uint8).reshape(len(readable), height, width, channels).transpose(0, 3, 1, 2)

    def answer(
        self, images: Sequence[tuple[Path, NDArray[np.uint8]]], size: int = 0, *, heads: bool = False
    ) -> list[Prediction]:
        """Classify images in memory, given as pairs of a name and pixels (H, W, C) in the size of the preprocessing.

        If an image's probabilities are NaN, ``error`` is set. `size` is as in `member_probabilities`.
        """
        (members,) = compute_members(self.engine, [self._pixels([image for _, image in images])], size)
        return self.predictions([path for path, _ in images], *members, heads=heads)

    def predictions(
        self,
        paths: Sequence[Path],
        by_head: NDArray[np.float64],
        distances: NDArray[np.float64],
        *,
        heads: bool = False,
    ) -> list[Prediction]:
        """Make the predictions of images from the probabilities and distances that `compute_members` yielded."""
        members = np.concatenate(by_head)  # (folds * heads, N, classes)
        mean = self._calibrate(members.mean(0))
        total, disagreement = uncertainty(mean, members, self.task)
        away = unlike(distances, self.quantiles)
        return [
            Prediction(
                path,
                label=label_of(mean[i], self.classes, self.task),
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

    @property
    def overflow(self) -> str:
        """The error message for an image whose prediction is NaN although the network works on a plain grey image."""
        advice = "" if self.precision == "fp32" else "; try fp32 (--amp fp32)"
        return f"the prediction of {self.name} is not a number (overflow in {self.precision}){advice}"

    def _failure(self, path: Path, error: str) -> Prediction:
        return Prediction(path, "", np.full(len(self.classes), np.nan), error=error)

    def probabilities(self, images: ArrayLike) -> NDArray[np.float64]:
        """Return the mean probabilities over models and heads, (N, classes); with multiclass models, rows sum to one.

        The images are uint8 (N, C, H, W), in the size of the preprocessing: an array, or a tensor on the CPU. If the
        model was calibrated (``cvrnet calibrate``), these are the calibrated probabilities.
        """
        return self._calibrate(self.member_probabilities(images).mean((0, 1)))

    def _calibrate(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        calibration = self.decisions.calibration
        return probabilities if calibration is None else calibration(probabilities)

    def member_probabilities(self, images: ArrayLike, size: int = 0) -> NDArray[np.float64]:
        """Return the probabilities of every member of the ensemble, not calibrated: (folds, heads, N, classes).

        The images are as in `probabilities`. A model without heads counts as one head. With compiled networks, a batch
        of fewer images than `size` is filled up, because the network would be compiled again for another number of
        images. If the network's numbers overflow for an image, the image's probabilities are NaN.

        Raises:
            UserError: The model cannot predict images of this height and width; or its output is NaN even for a grey
                image, because its weights, mean or std are not finite, or its numbers overflow.
        """
        (members,) = compute_members(self.engine, [np.asarray(images, np.uint8)], size)
        return members[0]

    def decide(
        self,
        probabilities: ArrayLike,
        *,
        operating_point: str = "",
        coverage: float | None = None,
        by_class: bool = False,
        abstain: float | None = None,
    ) -> dict[str, Any]:
        """Make decisions from an image's probabilities, (C,), with the arguments, result and errors of `Decide`."""
        return Decide(self.decisions, self.classes, operating_point, coverage, by_class, abstain)(probabilities)
