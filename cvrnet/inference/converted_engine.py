"""Run a model's networks in OpenVINO or ONNX Runtime, from copies that are converted once and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.inference.torch_engine import Answer, TorchEngine
from cvrnet.onnx.converted import ConvertedCopy
from cvrnet.onnx.session import OnnxEngine
from cvrnet.task import probabilities

TOLERANCES = {"fp32": 1e-4, "bf16": 5e-3}  # largest accepted difference between a probability and PyTorch's in float32


class ConvertedEngine:
    """Runs the converted copy of one network, or the copies of the networks of all folds, for `cvrnet.Predictor`.

    Args:
        engine: The networks in PyTorch, on the CPU.
        copies: The converted copy of each network, in the order of the networks.
        dtype: A number format; ``auto`` is the fastest number format with which no probability of any network differs
            from PyTorch's by more than `TOLERANCES` allows.
        backend: ``openvino`` or ``onnxruntime``.

    Raises:
        UserError: A network cannot be exported, or its probabilities differ too much from PyTorch's.
    """

    def __init__(self, engine: TorchEngine, copies: Sequence[ConvertedCopy], dtype: str, backend: str) -> None:
        self.name, self.device, self.models = engine.name, engine.device, engine.models
        self.unit, self.task = engine.unit, engine.task
        self.classes, self.preprocessing = engine.classes, engine.preprocessing
        self.novelty, self.quantiles = engine.novelty, engine.quantiles
        self.averages_probabilities = engine.averages_probabilities
        self._torch, self._copies = engine, copies
        worst = self._open(dtype, backend)
        if worst > TOLERANCES[self.precision] and dtype == "auto" and self.precision != "fp32":
            worst = self._open("fp32", backend)
        if worst > TOLERANCES[self.precision]:
            raise UserError(
                f"{self.name}: probabilities of {backend} in {self.precision} differ from PyTorch's by {worst:.1e}; "
                f"expected at most {TOLERANCES[self.precision]:.0e}; use --backend torch"
            )

    ahead = 0  #: number of further batches to start before waiting for a batch's result

    def start(self, pixels: NDArray[np.uint8], size: int = 0) -> Callable[[], Answer]:
        """Predict images now; return, as `TorchEngine.start` does, a function that returns the result."""
        answer = self(pixels, size)
        return lambda: answer

    @property
    def num_heads(self) -> int:
        """Number of heads of each network; raises UserError if a model does not average its heads' probabilities."""
        return self._torch.num_heads

    def __call__(self, pixels: NDArray[np.uint8], size: int = 0) -> Answer:
        """Predict images as `TorchEngine.__call__` does; a batch may have any length, so `size` has no effect."""
        answers = [network(pixels) for network in self._networks]
        return np.concatenate([a[0] for a in answers]), np.concatenate([a[1] for a in answers], 1)

    @cached_property
    def _images(self) -> NDArray[np.uint8]:
        """The images on which the networks are compared with PyTorch; they are read once, and only if needed."""
        return self._copies[0].images(self.preprocessing)

    def _open(self, dtype: str, backend: str) -> float:
        """Open the copies; return the largest difference between their probabilities and PyTorch's in float32."""
        self._networks = [copy.open(dtype, backend, lambda: self._images) for copy in self._copies]
        self.precision = self._networks[0].precision
        return max(map(self._difference, range(len(self._copies)), self._copies, self._networks))

    def _difference(self, number: int, copy: ConvertedCopy, opened: OnnxEngine) -> float:
        """Return the largest difference between a copy's probabilities and PyTorch's; measure it once and store it."""
        if (known := copy.known_difference(opened)) is not None:
            return known
        exact = TorchEngine([self.models[number]], "cpu", "fp32", compile=False)
        expected, found = (probabilities(one(self._images)[0], self.task) for one in (exact, opened))
        difference = float(np.abs(expected - found).max())
        copy.keep_difference(opened, difference)
        return difference
