"""Choose the backend that runs a model.

PyTorch runs checkpoints. OpenVINO and ONNX Runtime run ONNX files, and converted copies of checkpoints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions

if TYPE_CHECKING:
    from cvrnet.inference.converted_engine import ConvertedEngine
    from cvrnet.inference.torch_engine import TorchEngine
    from cvrnet.onnx.converted import ConvertedCopy
    from cvrnet.onnx.session import OnnxEngine

    Engine = TorchEngine | ConvertedEngine | OnnxEngine

BACKENDS = ("auto", "torch", "openvino", "onnxruntime")
CONVERTED_PAYS, KEPT_PAYS = 200, 50
"""For at least this number of images, ONNX Runtime takes less time than PyTorch: ``CONVERTED_PAYS`` images if the model
must be converted first, ``KEPT_PAYS`` images if a converted copy exists. The measured numbers for a ``cvrnet_lite``
were 173 and 37 (docs/performance.md)."""


def open_model(
    model: str | Path,
    device: str,
    dtype: str,
    folds: Sequence[int],
    compile: bool | str,
    backend: str | None,
    images: float | None,
    checkpoints: Sequence[Path],
) -> tuple[Engine, Decisions]:
    """Open a model with a backend; return the engine, which runs the networks, and the model's `Decisions`.

    `Decisions` holds, for example, thresholds. The arguments are those of `cvrnet.Predictor.from_pretrained`.
    """
    if backend not in (None, *BACKENDS):
        raise UserError(f"backend {backend!r} is not known; expected one of {', '.join(BACKENDS)}")
    if str(model).lower().endswith(".onnx"):
        if folds:
            raise UserError(f"{model} is a single model, but folds can be chosen only from a run; leave the folds out")
        if compile or backend == "torch":
            raise UserError(
                f"{model} is an ONNX file, which PyTorch cannot run or compile; expected a run folder or a checkpoint"
            )
        from cvrnet.onnx import load_onnx  # here, because onnx is an extra

        file = load_onnx(model, device, dtype, backend or "auto", images)
        return file, file.decisions
    from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
    from cvrnet.inference.torch_engine import TorchEngine
    from cvrnet.lungs.attach import with_finder
    from cvrnet.runs.checkpoint import find_checkpoints, load_checkpoint, refuse_bags
    from cvrnet.runs.decisions import load_decisions
    from cvrnet.runs.novelty import load_novelty

    folders = list(checkpoints) or find_checkpoints(model, folds)
    engine = TorchEngine([fuse_batch_norm(load_checkpoint(folder)) for folder in folders], device, dtype, compile)
    engine.preprocessing = with_finder(engine.preprocessing, folders)
    engine.name = str(model)
    engine.novelty = [head.to(engine.device) for head in load_novelty(folders, engine.models)]
    decisions = load_decisions(folders)
    if backend in (None, "torch"):
        return engine, decisions
    refuse_bags(engine.unit, "a backend other than PyTorch")
    if compile:
        raise UserError(f"compile is for PyTorch only; leave out compile, or the backend {backend}")
    images = math.inf if images is None else images
    if backend == "auto" and (images < KEPT_PAYS or not _can_convert(engine, dtype)):
        return engine, decisions
    if engine.device.type != "cpu":
        raise UserError(f"backend {backend} converts models for the CPU, not for {engine.device}; use --device cpu")
    from cvrnet.inference.converted_engine import ConvertedEngine  # here, because onnx is an extra
    from cvrnet.onnx.converted import ConvertedCopy

    copies = [ConvertedCopy(folder) for folder in folders]
    if backend == "auto":
        return _fastest(engine, copies, dtype, images), decisions
    return ConvertedEngine(engine, copies, dtype, str(backend)), decisions


def _can_convert(engine: TorchEngine, dtype: str) -> bool:
    """Return whether OpenVINO or ONNX Runtime can run a converted copy of the model.

    The packages must be installed, the device must be a CPU, and ``dtype`` must be ``auto`` or ``fp32``.
    """
    installed = find_spec("onnxscript") and (find_spec("openvino") or find_spec("onnxruntime"))
    return bool(installed) and engine.device.type == "cpu" and dtype in ("auto", "fp32")


def _fastest(engine: TorchEngine, copies: Sequence[ConvertedCopy], dtype: str, images: float) -> Engine:
    """Time PyTorch and ONNX Runtime (OpenVINO, if ONNX Runtime is not installed), and return the faster engine.

    If a copy must be converted first and there are fewer than `CONVERTED_PAYS` images, return PyTorch's engine without
    measuring.
    """
    from cvrnet.inference.converted_engine import ConvertedEngine

    if images < CONVERTED_PAYS and not all(copy.file.is_file() for copy in copies):
        return engine
    other = ConvertedEngine(engine, copies, dtype, "onnxruntime" if find_spec("onnxruntime") else "openvino")
    pixels = np.zeros((8, *engine.preprocessing.input_size), np.uint8)
    return other if _seconds(other, pixels) < _seconds(engine, pixels) else engine


def _seconds(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """Return the seconds that an engine takes for a batch, after a first batch as warm-up."""
    engine(pixels)
    start = time.perf_counter()
    engine(pixels)
    return time.perf_counter() - start
