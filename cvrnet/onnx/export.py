"""From a trained model to an ONNX file that is known to answer as it does."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from cvrnet.errors import UserError
from cvrnet.files import atomic_write
from cvrnet.onnx.graph import HEADS, LOGITS, PixelNetwork, describe, trace, write_metadata
from cvrnet.onnx.images import check_pixels, split_calibration
from cvrnet.onnx.session import Session, open_onnxruntime
from cvrnet.onnx.source import load_source
from cvrnet.runs.checkpoint import checkpoint_classes

TOLERANCE = 1e-4
CALIBRATION_IMAGES = 128
EVALUATION_IMAGES = 2000


def export_onnx(
    model: str | Path,
    output: str | Path,
    *,
    folds: Sequence[int] = (),
    img_size: int | None = None,
    check_images: str | Path | None = None,
    int8: bool = False,
    calibration: str | Path | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    min_agreement: float = 0.98,
    max_accuracy_drop: float = 0.01,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Export a model, all folds of a run as one, to an ONNX file.

    The file appears only after ONNX Runtime gave the PyTorch network's probabilities, the heads' too, within 1e-4.

    Args:
        model: Run folder, fold folder, ``local-dir:FOLDER`` or ``hf-hub:user/repo[@revision]``.
        output: The file; its name ends in .onnx.
        folds: Of a run, only these.
        img_size: Height and width in pixels; by default those of the training.
        check_images: Data set whose images the file is checked on; by default the calibration's, then the run's own,
            then phantoms.
        int8: Quantise: weights and activations of the convolutions become 8-bit integers.
        calibration: Data set for that: some patients' images give the ranges, the others' show what it costs.
        calibration_images: How many give the ranges.
        min_agreement: Part of the other images that must keep their most probable class.
        max_accuracy_drop: What the accuracy may lose on them, where they have labels.
        overwrite: Replace the file that is there.
        progress: Called while the quantised file is evaluated, with the number of images done and of all.

    Returns:
        ``folds``, ``checked_on`` (which images), ``max_difference`` of a probability from PyTorch's; with ``int8`` also
        ``quantization`` (calibration images, and an :class:`~cvrnet.onnx.quantize.Agreement`'s fields).

    Raises:
        UserError: A mistake in the arguments, or the answers differ. Nothing is written.
    """
    output = Path(output)
    _check_arguments(output, int8, calibration, overwrite)
    source = load_source(model, folds, img_size)
    network = PixelNetwork(source.models, source.preprocessing).eval()
    proto = trace(network, source.preprocessing.input_size)
    describe(proto, source.models[0], source.preprocessing, source.provenance)
    given = check_images or calibration
    pixels, checked_on = check_pixels(source.preprocessing, [Path(given) if given else None, source.data])
    report: dict[str, Any] = {"folds": len(source.models), "checked_on": checked_on}
    with atomic_write(output) as target, tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        exact = Path(folder) / "float32.onnx"
        onnx.save(proto, exact)
        report["max_difference"] = _check(network, exact, pixels)
        if int8:
            from cvrnet.onnx.quantize import compare, quantize

            assert calibration is not None
            classes = checkpoint_classes(source.models[0])
            chosen, others = split_calibration(Path(calibration), calibration_images, EVALUATION_IMAGES, classes)
            done = quantize(exact, target, chosen, source.preprocessing, network.float32_parts)
            before, after = (_probabilities(open_onnxruntime(file, "cpu")) for file in (exact, target))
            agreement = compare(before, after, others, source.preprocessing, classes, progress)
            agreement.check(min_agreement, max_accuracy_drop)
            report["quantization"] = done | dataclasses.asdict(agreement)
            quantized = onnx.load(target)
            describe(quantized, source.models[0], source.preprocessing, source.provenance)
            write_metadata(quantized, {"quantization": report["quantization"]})
            onnx.save(quantized, target)
        else:
            exact.replace(target)
    return report


def _check_arguments(output: Path, int8: bool, calibration: str | Path | None, overwrite: bool) -> None:
    if output.suffix != ".onnx":
        raise UserError(f"{output}: expected a file name that ends in .onnx")
    if output.is_dir():
        raise UserError(f"{output} is a folder; expected a file name")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    if int8 and calibration is None:
        raise UserError("--int8 needs images to calibrate on: --calibration DATA")
    if calibration is not None and not int8:
        raise UserError("--calibration is for --int8 (--check-images names the images of the check)")


def _check(network: PixelNetwork, file: Path, pixels: np.ndarray) -> float:
    """The greatest difference of a probability between PyTorch and ONNX Runtime, of any head and of the mean.

    Raises:
        UserError: It is more than the tolerance.
    """
    with torch.inference_mode():
        answers = network(torch.from_numpy(pixels))
    expected = dict(zip((LOGITS, HEADS), answers if network.averages_probabilities else (answers,), strict=False))
    session = open_onnxruntime(file, "cpu")
    worst = max(
        float(np.abs(_softmax(session(pixels, name)) - _softmax(value.numpy())).max())
        for name, value in expected.items()
    )
    if not worst <= TOLERANCE:
        raise UserError(
            f"the exported network's probabilities differ from PyTorch's by {worst:.1e}; expected at most "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    return worst


def _probabilities(session: Session) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: _softmax(session(pixels, LOGITS))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(-1).numpy()
