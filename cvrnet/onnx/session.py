"""Run an ONNX file as a PyTorch module, in OpenVINO if it is installed, otherwise in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cvrnet.devices import select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions
from cvrnet.onnx.file_checks import read_metadata
from cvrnet.onnx.graph import DISTANCES, HEADS, INPUT, LOGITS

ENGINES = ("auto", "onnxruntime", "openvino")
Session = Callable[[np.ndarray, list[str]], list[np.ndarray]]  # (pixels uint8 (N, C, H, W), names) -> these outputs


class OnnxModel(nn.Module):
    """A network in an ONNX file, with its metadata. Its outputs are those of the PyTorch network, without gradients."""

    def __init__(
        self,
        session: Session,
        cfg: dict[str, Any],
        task: str,
        num_heads: int,
        file: str,
        decisions: Decisions | None = None,
        quantiles: Sequence[NDArray[np.float64]] = (),
    ) -> None:
        super().__init__()
        self._file = file
        channels = cfg["input_size"][0]
        # The graph itself normalises pixels of 0 to 255: with these values, our preprocessing does not change them.
        self.pretrained_cfg = self.default_cfg = {**cfg, "mean": (0.0,) * channels, "std": (1 / 255,) * channels}
        self.num_classes: int = cfg["num_classes"]
        self.task = task  #: ``multiclass``, or ``multilabel`` for findings
        self.groups = [[i] for i in range(num_heads)]  # as many as in the CVR-Net
        self.decisions = decisions or Decisions()
        self.quantiles = quantiles  #: of each fold's distances (`cvrnet.heads.novelty`), if the file has these
        self._session = session

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), normalised with the mean and std of ``pretrained_cfg``."""
        return self._compute(x, [LOGITS])[0]

    def branch_logits(self, x: Tensor) -> list[Tensor]:
        """Each head's logits, (N, classes). Only for files of CVR-Nets."""
        return list(self._compute(x, [HEADS])[0].unbind(1))

    def heads_and_distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of `branch_logits` as (heads, N, classes), and each fold's distances (N, folds).

        Only for files that have ``quantiles``.
        """
        heads, distances = self._compute(x, [HEADS, DISTANCES])
        return heads.transpose(0, 1), distances

    def _compute(self, x: Tensor, outputs: list[str]) -> list[Tensor]:
        pixels = x.float().round().clamp(0, 255).to(torch.uint8)
        try:
            answers = self._session(pixels.cpu().contiguous().numpy(), outputs)
        except Exception as error:  # the engines' exceptions have no common base class
            raise UserError(f"{self._file} cannot compute images of size {tuple(x.shape)}: {_reason(error)}") from error
        return [torch.from_numpy(answer).to(x.device) for answer in answers]


def load_onnx(path: str | Path, device: str = "auto", dtype: str = "auto", engine: str = "auto") -> OnnxModel:
    """Load a file that ``cvrnet export`` wrote.

    Args:
        path: The file.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``fp32``, or ``bf16`` (OpenVINO only, on processors that have it).
        engine: One of ``ENGINES``; ``auto`` takes OpenVINO on a CPU where it is installed.

    Returns:
        A network with class names and preprocessing in its ``pretrained_cfg``; for CVR-Nets also ``branch_logits``.

    Raises:
        UserError: Another program wrote the file, or the device, number format or engine is not available.
    """
    cfg, task, num_heads, decisions, quantiles = read_metadata(path)
    if not num_heads:  # the logits are calibrated in the graph; a CVR-Net's answer is computed from its heads' logits
        decisions = replace(decisions, calibration=None)
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; expected {', '.join(ENGINES)}")
    if device != "auto" and device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} cannot run an ONNX file; expected auto, cpu or cuda")
    if engine == "auto":
        on_cpu = device == "cpu" or (device == "auto" and not _onnxruntime_has_cuda())
        engine = "openvino" if on_cpu and find_spec("openvino") else "onnxruntime"
    precision = select_precision(dtype, torch.device("cpu"))
    about = (cfg, task, num_heads, str(path), decisions, quantiles)
    if engine == "onnxruntime":
        if dtype not in ("auto", "fp32"):
            raise UserError(f"ONNX Runtime computes in the file's number format, not in {dtype}; expected auto or fp32")
        return OnnxModel(_open_onnxruntime(Path(path), device), *about)
    if device.startswith("cuda"):
        raise UserError(f"OpenVINO does not run on {device!r}; expected auto or cpu")
    return OnnxModel(_open_openvino(Path(path), precision), *about)


def _onnxruntime_has_cuda() -> bool:
    if not torch.cuda.is_available() or not find_spec("onnxruntime"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _open_onnxruntime(path: Path, device: str) -> Session:
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    has_cuda = device != "cpu" and _onnxruntime_has_cuda()
    if device.startswith("cuda") and not has_cuda:
        raise UserError(f"device {device!r}: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu, or use cpu")
    if has_cuda:
        index = select_device("cuda" if device == "auto" else device).index or 0
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised; the log would print them again
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise UserError(f"ONNX Runtime cannot load {path}: {_reason(error)}") from error
    return lambda pixels, outputs: session.run(outputs, {INPUT: pixels})


@cache
def _openvino_core() -> Any:
    """The one OpenVINO of this process.

    OpenVINO gives the thread that starts it another stack for signals, and frees this stack with itself. If another
    thread released it, the next signal (Ctrl-C, or the end of a child process) would end the program without a message.
    """
    import openvino

    return openvino.Core()


def _open_openvino(path: Path, precision: str) -> Session:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    try:
        compiled = _openvino_core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot load {path}: {_reason(error)}") from error

    def run(pixels: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        answers = compiled([pixels])
        return [answers[name].copy() for name in outputs]  # OpenVINO reuses its own memory in the next call

    return run


def _reason(error: Exception) -> str:
    """The line of an engine's message that names the problem; in OpenVINO's messages it is the last line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception from")] or lines or [type(error).__name__]
    return told[-1] if len(told) < len(lines) else told[0]
