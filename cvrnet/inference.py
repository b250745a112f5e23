"""Predictions from trained models: one fold, or all folds of a run as an ensemble."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cvrnet.checkpoints import checkpoint_classes, find_checkpoints, load_checkpoint
from cvrnet.data import ImageError, Preprocessing, read_image
from cvrnet.devices import select_device, select_precision
from cvrnet.errors import UserError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_READERS = 2


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Attributes:
        path: The image.
        label: The most probable class; "" when the image could not be read.
        probabilities: Of each class, (C,).
        heads: Each head's own probabilities, (heads, C), where they were asked for.
        error: Why the image could not be read; "" when it could.
    """

    path: Path
    label: str
    probabilities: NDArray[np.float64]
    heads: NDArray[np.float64] | None = None
    error: str = ""


class Predictor:
    """Classifies images from files with one model, or with the mean probability of several (the folds of a run).

    Images are read and resized in threads while the network works.

    Args:
        models: Models with the same classes and preprocessing.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto`` takes what is fast on the device.

    Attributes:
        classes: Class names in the order of the probabilities.
        preprocessing: What is done to an image, as saved with the model.

    Raises:
        UserError: The models do not belong together, or the device or dtype is not there.
    """

    def __init__(self, models: Sequence[nn.Module], device: str = "auto", dtype: str = "auto") -> None:
        self.device = select_device(device)
        self.precision = select_precision(dtype, self.device)
        self.classes = checkpoint_classes(models[0])
        self.preprocessing = Preprocessing.from_model(models[0])
        for model in models[1:]:
            if checkpoint_classes(model) != self.classes or Preprocessing.from_model(model) != self.preprocessing:
                raise UserError("the folds differ in classes or preprocessing; expected models of one run")
        self.models: list[Any] = [m.eval().to(self.device).to(memory_format=torch.channels_last) for m in models]

    @classmethod
    def from_pretrained(cls, model: str | Path, device: str = "auto", dtype: str = "auto") -> Predictor:
        """Load a run folder (all its folds), a fold folder, ``local-dir:FOLDER`` or ``hf-hub:user/repo[@revision]``.

        Raises:
            UserError: There is no such model.
        """
        if str(model).startswith(("hf-hub:", "hf_hub:")):
            return cls([timm.create_model(str(model), pretrained=True)], device, dtype)
        return cls([load_checkpoint(folder) for folder in find_checkpoints(model)], device, dtype)

    @property
    def has_heads(self) -> bool:
        """Whether the models have heads of their own: whether they are CVR-Nets."""
        return all(hasattr(model, "branch_logits") for model in self.models)

    @property
    def num_heads(self) -> int:
        """How many heads answer.

        Raises:
            UserError: The model has no heads of its own (it is not a CVR-Net).
        """
        for model in self.models:
            if not hasattr(model, "branch_logits"):
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

    def stream(self, paths: Iterable[str | Path], *, batch_size: int = 8, heads: bool = False) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order and in constant memory.

        Args:
            paths: The files; may be a generator without end.
            batch_size: Images the network sees at once.
            heads: Give each head's own probabilities too.

        Yields:
            One prediction a file; a file that cannot be read gives one with ``error`` set.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}; expected a whole number from 1")
        images = self._read(paths, ahead=2 * batch_size)
        while batch := list(itertools.islice(images, batch_size)):
            good = [image for _, image in batch if isinstance(image, np.ndarray)]
            by_head = self.head_probabilities(_to_batch(good)) if heads and good else None
            if by_head is not None:
                table = by_head.mean(0)
            elif good:
                table = self.probabilities(_to_batch(good))
            row = 0
            for path, image in batch:
                if isinstance(image, str):
                    yield Prediction(path, "", np.full(len(self.classes), np.nan), error=image)
                    continue
                answer = None if by_head is None else by_head[:, row]
                yield Prediction(path, self.classes[int(table[row].argmax())], table[row], answer)
                row += 1

    def probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Mean probabilities over the models.

        Args:
            images: uint8 (N, C, H, W), of the preprocessing's size.

        Returns:
            (N, classes), rows summing to one.
        """
        x = self._prepare(images)
        with torch.inference_mode(), self._autocast():
            each = [model(x).double().softmax(-1) for model in self.models]
        return torch.stack(each).mean(0).cpu().numpy()

    def head_probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Each head's probabilities, averaged over the models.

        Args:
            images: uint8 (N, C, H, W), of the preprocessing's size.

        Returns:
            (heads, N, classes); their mean over the heads is :meth:`probabilities`.

        Raises:
            UserError: The model has no heads of its own (it is not a CVR-Net).
        """
        x = self._prepare(images)
        shape = (self.num_heads, len(images), len(self.classes))
        with torch.inference_mode(), self._autocast():
            each = [torch.stack(model.branch_logits(x)).double().softmax(-1) for model in self.models]
        return torch.stack(each).mean(0).reshape(shape).cpu().numpy()

    def _prepare(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda":
            images = images.pin_memory()
        x = self.preprocessing.normalize(images.to(self.device, non_blocking=True))
        return x.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _read_one(self, path: Path) -> NDArray[np.uint8] | str:
        try:
            return self.preprocessing.resize(read_image(path, self.preprocessing.mode))
        except ImageError as error:
            return str(error)

    def _read(self, paths: Iterable[str | Path], ahead: int) -> Iterator[tuple[Path, NDArray[np.uint8] | str]]:
        waiting: deque[tuple[Path, Future[NDArray[np.uint8] | str]]] = deque()
        with ThreadPoolExecutor(_READERS) as pool:
            for path in map(Path, paths):
                waiting.append((path, pool.submit(self._read_one, path)))
                if len(waiting) > ahead:
                    first, image = waiting.popleft()
                    yield first, image.result()
            while waiting:
                first, image = waiting.popleft()
                yield first, image.result()


def _to_batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))
