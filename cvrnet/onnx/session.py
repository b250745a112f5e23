"""Run an ONNX file in OpenVINO or ONNX Runtime; PyTorch is not needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import Preprocessing
from cvrnet.errors import UserError
from cvrnet.onnx.file_checks import read_metadata
from cvrnet.onnx.names import DISTANCES, HEADS, INPUT, LOGITS
from cvrnet.precision import named_precision

ENGINES = ("auto", "onnxruntime", "openvino")
OPENVINO_PAYS = 100
"""OpenVINO opens a file more slowly than ONNX Runtime, but computes faster. From this number of images on, OpenVINO
takes less time in total (docs/export.md)."""
Session = Callable[[np.ndarray, list[str]], list[np.ndarray]]  # (pixels uint8 (N, C, H, W), output names) -> outputs


class OnnxEngine:
    """Runs the network in an ONNX file, for `cvrnet.Predictor`; the settings come from the file's metadata."""

    def __init__(self, path: str | Path, device: str, dtype: str, engine: str, images: float | None = None) -> None:
        about = read_metadata(path)
        self.name = str(path)  #: for messages
        self.pretrained_cfg = about.cfg
        self.preprocessing = Preprocessing.from_cfg(about.cfg)
        self.classes: list[str] = about.cfg["label_names"]
        self.unit = "image"  #: the unit of a prediction: one image
        self.task = about.task  #: ``multiclass``, or ``multilabel`` for findings
        self.quantiles = about.quantiles  #: quantiles of each fold's distances (`cvrnet.metrics.novelty`); may be empty
        self.averages_probabilities = about.num_heads > 0  #: whether the file also returns the logits of heads
        self._heads, self.decisions = about.num_heads, about.decisions
        if not self.averages_probabilities:  # the graph calibrates the logits, but not the logits of heads
            self.decisions = replace(self.decisions, calibration=None)
        self.models: list[Any] = [self]  #: this engine; other engines list their PyTorch networks here
        self.device: Any  # "cpu" or "cuda"
        self.engine, self._session, self.device, self.precision = _open(Path(path), device, dtype, engine, images)

    @property
    def num_heads(self) -> int:
        """Number of heads; raises UserError if the file does not return the logits of heads."""
        if not self._heads:
            name = self.pretrained_cfg["architecture"]
            raise UserError(
                f"{name} gives no probabilities of heads; expected a CVR-Net that averages its heads' probabilities"
            )
        return self._heads

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits (N, classes) for images, uint8 (N, C, H, W), in the size of the preprocessing."""
        (logits,) = self._compute(pixels, [LOGITS])
        return logits

    def __call__(self, pixels: NDArray[np.uint8], size: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict any number of images, uint8 (N, C, H, W), in the size of the preprocessing; `size` has no effect.

        Returns:
            Logits (1, heads, N, classes), with heads = 1 for a network without heads; and each fold's distances from
            its training images, (N, folds), or (N, 0) if the file has no distances.
        """
        names = [HEADS if self.averages_probabilities else LOGITS, *([DISTANCES] if len(self.quantiles) else [])]
        logits, *others = (answer.astype(np.float64) for answer in self._compute(pixels, names))
        heads = logits.transpose(1, 0, 2) if self.averages_probabilities else logits[None]
        return heads[None], others[0] if others else np.zeros((len(pixels), 0))

    ahead = 0  #: number of further batches to start before waiting for a batch's result

    def start(self, pixels: NDArray[np.uint8], size: int = 0) -> Callable[[], Any]:
        """Predict images now; return a function that returns the result.

        `cvrnet.inference.torch_engine.TorchEngine.start` has the same interface, but can return before the result is
        computed.
        """
        answer = self(pixels, size)
        return lambda: answer

    def _compute(self, pixels: NDArray[np.uint8], outputs: list[str]) -> list[np.ndarray]:
        try:
            return self._session(np.ascontiguousarray(pixels), outputs)
        except Exception as error:  # the engines' exceptions have no common base class
            raise UserError(
                f"{self.name} cannot predict images of size {tuple(pixels.shape[1:])}: {_reason(error)}"
            ) from error


def load_onnx(
    path: str | Path, device: str = "auto", dtype: str = "auto", engine: str = "auto", images: float | None = None
) -> OnnxEngine:
    """Load an ONNX file that ``cvrnet export`` wrote.

    Args:
        path: The file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``auto``, ``fp32``, or ``bf16`` (only with OpenVINO, on processors with bfloat16).
        engine: One of ``ENGINES``. ``auto`` takes ONNX Runtime, except in one case: OpenVINO is installed, the device
            is a CPU, and there are at least `OPENVINO_PAYS` images (any number of images, if the dtype is ``bf16`` or
            ONNX Runtime is not installed). In this case ``auto`` takes OpenVINO.
        images: Number of images that will be predicted; None for many.

    Raises:
        UserError: ``cvrnet export`` did not write the file, or the device, number format or engine is not available.
    """
    return OnnxEngine(path, device, dtype, engine, images)


def _open(path: Path, device: str, dtype: str, engine: str, images: float | None) -> tuple[str, Session, str, str]:
    """Open a file; return the engine's name, the session, the device and the number format."""
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; expected {', '.join(ENGINES)}")
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r} cannot run an ONNX file; expected auto, cpu, cuda or cuda:N")
    use_cuda = kind != "cpu" and engine != "openvino" and _onnxruntime_has_cuda()
    dtype = named_precision(dtype)
    if engine == "auto":
        on_cpu = kind != "cuda" and not use_cuda and find_spec("openvino")
        few = images is not None and images < OPENVINO_PAYS and dtype in ("auto", "fp32") and find_spec("onnxruntime")
        engine = "openvino" if on_cpu and not few else "onnxruntime"
    if engine == "openvino":
        if kind == "cuda":
            raise UserError(f"OpenVINO does not run on {device!r}; expected auto or cpu")
        if dtype in ("tf32", "fp16"):
            raise UserError(f"OpenVINO does not compute in {dtype}; expected auto, fp32 or bf16")
        session, precision = _open_openvino(path, dtype)
        return engine, session, "cpu", precision
    if dtype not in ("auto", "fp32"):
        raise UserError(f"ONNX Runtime computes in the file's number format, not in {dtype}; expected auto or fp32")
    if kind == "cuda" and not use_cuda:
        raise UserError(
            f"device {device!r} needs a GPU and ONNX Runtime with CUDA: pip install onnxruntime-gpu, or use cpu"
        )
    if index and not index.isdecimal():
        raise UserError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N")
    return engine, _open_onnxruntime(path, int(index or 0) if use_cuda else None), "cuda" if use_cuda else "cpu", "fp32"


def _onnxruntime_has_cuda() -> bool:
    if not find_spec("onnxruntime"):
        return False
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return False
    import torch  # here, because only an ONNX Runtime with CUDA needs to know whether there is a GPU

    return bool(torch.cuda.is_available())


def _open_onnxruntime(path: Path, gpu: int | None) -> Session:
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu is not None:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 4  # errors are raised; the log would print them again
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise UserError(f"ONNX Runtime cannot load {path}: {_reason(error)}") from error
    return lambda pixels, outputs: session.run(outputs, {INPUT: pixels})


def _threads() -> int:
    """Return the number of threads in OMP_NUM_THREADS, which PyTorch uses too; 0 lets the engine choose."""
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(stated) if stated.isdecimal() else 0


@cache
def _openvino_core() -> Any:
    """Return the single OpenVINO core of this process, which is never released.

    OpenVINO gives the thread that starts it another signal stack, and frees this stack when the core is released. If
    another thread released the core, the next signal (Ctrl-C, or the end of a child process) would end the program
    silently.
    """
    import openvino

    return openvino.Core()


def _open_openvino(path: Path, dtype: str) -> tuple[Session, str]:
    """Open a file in a number format (``auto``: bfloat16 if the processor has it); return the session and format."""
    core = _openvino_core()
    if dtype == "auto":
        dtype = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bf16" else "f32",
    }
    if threads := _threads():
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = core.compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot load {path}: {_reason(error)}") from error

    def run(pixels: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        answers = compiled([pixels])
        return [answers[name].copy() for name in outputs]  # OpenVINO reuses its own memory in the next call

    return run, dtype


def _reason(error: Exception) -> str:
    """Return the line of an engine's message that names the problem; in OpenVINO's messages it is the last line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception from")] or lines or [type(error).__name__]
    return told[-1] if len(told) < len(lines) else told[0]
