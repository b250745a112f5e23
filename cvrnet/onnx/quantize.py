"""Eight-bit integers for a float32 file: static quantisation by ONNX Runtime, and what it costs in answers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from cvrnet.data import Preprocessing, Record
from cvrnet.errors import UserError
from cvrnet.onnx.graph import INPUT
from cvrnet.onnx.images import pixel_batches

LEAST = 20
"""Images that two files must at least be compared on."""

Network = Callable[[np.ndarray], np.ndarray]
"""Probabilities (N, classes) of pixels."""


@dataclass(frozen=True)
class Agreement:
    """How a quantised file's answers compare with those of the file that it was made of.

    Attributes:
        images: How many were compared.
        top_class: Part of them with the same most probable class.
        max_difference: The greatest difference of a probability.
        accuracy_before: Of the float32 file; None where the images have no labels.
        accuracy_after: Of the quantised file.
    """

    images: int
    top_class: float
    max_difference: float
    accuracy_before: float | None
    accuracy_after: float | None

    def check(self, least_agreement: float, greatest_drop: float) -> None:
        """Refuse bad results.

        Raises:
            UserError: With the figures.
        """
        told = f"the top class agrees on {self.top_class:.1%} of {self.images} images"
        bad = self.top_class < least_agreement
        if self.accuracy_before is not None and self.accuracy_after is not None:
            told += f", accuracy goes from {self.accuracy_before:.1%} to {self.accuracy_after:.1%}"
            bad |= self.accuracy_before - self.accuracy_after > greatest_drop
        if bad:
            raise UserError(
                f"int8 answers too differently, nothing was written: {told}; expected at least "
                f"{least_agreement:.1%} (--min-agreement), a loss of at most {greatest_drop:.1%} (--max-accuracy-drop)"
            )


class _Reader(CalibrationDataReader):  # the interface that ONNX Runtime asks for
    def __init__(self, records: Sequence[Record], preprocessing: Preprocessing) -> None:
        self._batches = pixel_batches(records, preprocessing, batch_size=1)
        self.images = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        self.images += 0 if batch is None else len(batch)
        return None if batch is None else {INPUT: batch}


def quantize(
    source: Path,
    target: Path,
    calibration: Sequence[Record],
    preprocessing: Preprocessing,
    float32_parts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a quantised copy of a file.

    Convolutions compute in integers; weights are signed, one scale a channel, of 7 bits, so that processors without
    VNNI instructions, which add in 16 bits, do not overflow. An activation's range is the mean over the images of its
    extremes, so that no single image stretches it. The first convolutions, sums and the heads stay in float32.

    Args:
        source: float32 file.
        target: The copy.
        calibration: Images whose activations give the ranges.
        preprocessing: What is done to them.
        float32_parts: Names of further parts of the network that stay in float32.

    Returns:
        What was done, for the metadata.

    Raises:
        UserError: None of the images can be read.
    """
    reader = _Reader(calibration, preprocessing)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantizing-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        try:
            quantize_static(
                str(prepared),
                str(target),
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MaxPool", "MatMul"],
                nodes_to_exclude=_float_nodes(onnx.load(prepared).graph, float32_parts),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
        except ValueError as error:
            if reader.images:
                raise
            raise UserError("none of the calibration images can be read") from error
    return {"tool": f"onnxruntime {version('onnxruntime')}", "calibration_images": reader.images}


def _float_nodes(graph: onnx.GraphProto, parts: Sequence[str]) -> list[str]:
    """Nodes up to the first convolutions, the parts' convolutions, and all from the dense layers on (the heads)."""
    weights = tuple(f"{part}." for part in parts)
    begun: set[str] = set()
    ended: set[str] = set()
    names = []
    for node in graph.node:
        if begun.isdisjoint(node.input) or (node.op_type == "Conv" and node.input[1].startswith(weights)):
            names.append(node.name)
        if node.op_type in ("Conv", "MatMul") or not begun.isdisjoint(node.input):
            begun.update(node.output)
        if node.op_type == "Gemm" or not ended.isdisjoint(node.input):
            ended.update(node.output)
            names.append(node.name)
    return names


def compare(
    before: Network,
    after: Network,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    classes: Sequence[str],
    progress: Callable[[int, int], object] | None = None,
) -> Agreement:
    """Answers of two networks to the same images.

    Args:
        before: The one.
        after: The other.
        records: The images; where all have labels, accuracies are given.
        preprocessing: What is done to them.
        classes: In the order of the probabilities.
        progress: Called after each batch with the number of images done and of all.

    Raises:
        UserError: There are too few images.
    """
    labels: list[str] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for pixels in pixel_batches(records, preprocessing, labels=labels):
        pairs.append((before(pixels), after(pixels)))
        if progress is not None:
            progress(len(labels), len(records))
    if len(labels) < LEAST:
        raise UserError(
            f"{len(labels)} images are left to compare on, of other patients than the calibration's; "
            f"expected at least {LEAST}: give more images, or a smaller --calibration-images"
        )
    p, q = (np.concatenate(answers) for answers in zip(*pairs, strict=True))
    truth = np.array([classes.index(label) for label in labels]) if all(labels) else None
    return Agreement(
        images=len(labels),
        top_class=float((p.argmax(1) == q.argmax(1)).mean()),
        max_difference=float(np.abs(p - q).max()),
        accuracy_before=None if truth is None else float((p.argmax(1) == truth).mean()),
        accuracy_after=None if truth is None else float((q.argmax(1) == truth).mean()),
    )
