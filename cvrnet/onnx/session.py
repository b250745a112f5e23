"""An ONNX file as a network: through OpenVINO where that is installed, else through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cvrnet.devices import select_device, select_precision
from cvrnet.errors import UserError
from cvrnet.onnx.graph import HEADS, INPUT, LOGITS, read_metadata

ENGINES = ("auto", "onnxruntime", "openvino")
Session = Callable[[np.ndarray, str], np.ndarray]
"""Pixels, uint8 (N, C, H, W), and the name of the output that is wanted."""


class OnnxClassifier(nn.Module):
    """A network in an ONNX file, which answers as the PyTorch network that it was made of; there are no gradients.

    Args:
        session: Runs the file.
        cfg: timm's ``pretrained_cfg``. Its mean and std say that x is in 0 to 255.

    Attributes:
        pretrained_cfg: Class names and preprocessing.
    """

    def __init__(self, session: Session, cfg: dict[str, Any]) -> None:
        super().__init__()
        self.pretrained_cfg = self.default_cfg = cfg
        self.num_classes: int = cfg["num_classes"]
        self._session = session

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), normalised with the mean and std of ``pretrained_cfg``."""
        return _answer(self._session, x, LOGITS)


class OnnxMultiHeadClassifier(nn.Module):
    """A CVR-Net in an ONNX file: as :class:`OnnxClassifier`, with each head's own answer.

    Args:
        session: Runs the file.
        cfg: timm's ``pretrained_cfg``.
        num_heads: How many heads answer.
    """

    def __init__(self, session: Session, cfg: dict[str, Any], num_heads: int) -> None:
        super().__init__()
        self.pretrained_cfg = self.default_cfg = cfg
        self.num_classes: int = cfg["num_classes"]
        self.groups = [[i] for i in range(num_heads)]
        self._session = session

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), normalised with the mean and std of ``pretrained_cfg``."""
        return _answer(self._session, x, LOGITS)

    def branch_logits(self, x: Tensor) -> list[Tensor]:
        """Each head's own logits, (N, classes)."""
        return list(_answer(self._session, x, HEADS).unbind(1))


def load_onnx(path: str | Path, device: str = "auto", dtype: str = "auto", engine: str = "auto") -> nn.Module:
    """Load a file of ``cvrnet export``.

    Args:
        path: The file.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``fp32``, or ``bf16`` (of OpenVINO, where the processor has it).
        engine: One of ``ENGINES``; ``auto`` takes OpenVINO on a CPU where it is installed.

    Returns:
        A network with class names and preprocessing in its ``pretrained_cfg``; CVR-Nets have ``branch_logits`` too.

    Raises:
        UserError: It is no such file, or device, number format or engine is not there.
    """
    cfg, num_heads = read_metadata(path)
    session = _open(Path(path), device, dtype, engine)
    # The graph normalises by itself: what it takes is 0 to 255, which these two say.
    channels = cfg["input_size"][0]
    cfg = {**cfg, "mean": (0.0,) * channels, "std": (1 / 255,) * channels}
    return OnnxMultiHeadClassifier(session, cfg, num_heads) if num_heads else OnnxClassifier(session, cfg)


def _open(path: Path, device: str, dtype: str, engine: str) -> Session:
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; expected {', '.join(ENGINES)}")
    if device != "auto" and device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} cannot run an ONNX file; expected auto, cpu or cuda")
    if engine == "auto":
        on_cpu = device == "cpu" or (device == "auto" and not _cuda_in_onnxruntime())
        engine = "openvino" if on_cpu and find_spec("openvino") else "onnxruntime"
    if engine == "openvino" and device.startswith("cuda"):
        raise UserError(f"OpenVINO does not run on {device!r}; expected auto or cpu")
    precision = select_precision(dtype, torch.device("cpu"))
    if engine == "openvino":
        return open_openvino(path, precision)
    if dtype not in ("auto", "fp32"):
        raise UserError(f"ONNX Runtime computes in the file's own numbers, not in {dtype}; expected auto or fp32")
    return open_onnxruntime(path, device)


def _cuda_in_onnxruntime() -> bool:
    if not torch.cuda.is_available() or not find_spec("onnxruntime"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def open_onnxruntime(path: Path, device: str) -> Session:
    """Run a file through ONNX Runtime, on as many threads as PyTorch would take.

    Raises:
        UserError: It cannot run the file, or has no CUDA where that is asked for.
    """
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda") and not _cuda_in_onnxruntime():
        raise UserError(f"device {device!r}: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu, or use cpu")
    if device != "cpu" and _cuda_in_onnxruntime():
        index = select_device("cuda" if device == "auto" else device).index or 0
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its types have no base of their own
        raise UserError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
    return lambda pixels, output: session.run([output], {INPUT: pixels})[0]


def open_openvino(path: Path, precision: str) -> Session:
    """Run a file through OpenVINO on the CPU, in ``fp32`` or ``bf16``, on as many threads as PyTorch would take.

    Raises:
        UserError: It cannot run the file.
    """
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot load {path}: {_first_line(error)}") from error
    return lambda pixels, output: compiled([pixels])[output].copy()  # its own memory is used again by the next call


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _answer(session: Session, x: Tensor, output: str) -> Tensor:
    pixels = x.float().round().clamp(0, 255).to(torch.uint8)
    return torch.from_numpy(session(pixels.cpu().contiguous().numpy(), output)).to(x.device)
