"""Quantise a float32 ONNX file to 8-bit integers with ONNX Runtime, and compare the outputs of both files."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cvrnet.data import Record
from cvrnet.data.findings import known_findings
from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions
from cvrnet.metrics.findings import finding_rankings
from cvrnet.onnx.check_images import readable_images
from cvrnet.onnx.graph import PixelNetwork
from cvrnet.onnx.names import INPUT
from cvrnet.onnx.session import load_onnx
from cvrnet.task import probabilities

LEAST = 20  # smallest number of images on which two files are compared
# Number of images in a calibration batch. With more images, the ranges of activations are wider: fewer values are cut
# off, but the steps between 8-bit values are coarser.
TOGETHER = 3


class _Reader(CalibrationDataReader):
    """ONNX Runtime's interface for reading calibration images, a few at a time."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self._batches = (images[start : start + TOGETHER] for start in range(0, len(images), TOGETHER))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: np.stack(batch)}


def quantize(source: Path, target: Path, calibration: Sequence[Record], network: PixelNetwork) -> int:
    """Write a quantised copy of a float32 file; return the number of images that the calibration used."""
    images = [image for _, image in readable_images(calibration, network.preprocessing)]
    if not images:
        raise UserError("none of the calibration images can be read")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantizing-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Optimise the graph first, so that ranges are measured for the tensors that are quantised.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(images),
            quant_format=QuantFormat.QDQ,  # standard operators, which other engines also read
            op_types_to_quantize=["Conv", "MaxPool", "MatMul"],
            nodes_to_exclude=_float_nodes(onnx.load(prepared).graph, network.float32_parts),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,  # the channels' weights differ widely after batch norm was folded into them
            # Weights of 7 bits: x86 processors without VNNI add two 8-bit products in 16 bits (vpmaddubsw), and with
            # 8-bit weights the sum could saturate ("Quantize ONNX models" in ONNX Runtime's documentation).
            reduce_range=True,
            # With this option, a range of the default method (MinMax) is the mean of the batches' extremes. So a single
            # unusual image hardly changes the range.
            extra_options={"CalibMovingAverage": True},
        )
    return len(images)


def _float_nodes(graph: onnx.GraphProto, parts: Sequence[str]) -> list[str]:
    """Return the names of the nodes that stay in float32, because rounding in them would change predictions most.

    These are the first convolutions and all nodes before them, the convolutions of `parts`, and the heads: all nodes
    from the first dense layer (Gemm) on.
    """
    weights = tuple(f"{part}." for part in parts)
    after_first_layer: set[str] = set()  # names of tensors
    in_heads: set[str] = set()
    names = []
    for node in graph.node:  # in topological order
        if after_first_layer.isdisjoint(node.input) or (node.op_type == "Conv" and node.input[1].startswith(weights)):
            names.append(node.name)
        if node.op_type in ("Conv", "MatMul") or not after_first_layer.isdisjoint(node.input):
            after_first_layer.update(node.output)
        if node.op_type == "Gemm" or not in_heads.isdisjoint(node.input):
            in_heads.update(node.output)
            names.append(node.name)
    return names


def compare(
    before: Path,
    after: Path,
    records: Sequence[Record],
    network: PixelNetwork,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Compare the outputs of a float32 file and its quantised copy for the same images.

    Returns:
        A dictionary with ``images``, the number of images; ``max_difference``, the largest change of a probability;
        and the values of `class_agreement` or, for findings, `finding_agreement`.

    Raises:
        UserError: Fewer than 20 images can be read, or outputs of the quantised file are not finite.
    """
    files = [load_onnx(file, "cpu", "fp32", "onnxruntime") for file in (before, after)]
    compared: list[Record] = []
    answers: list[np.ndarray] = []  # an array (2, N, classes) for each batch
    images = readable_images(records, network.preprocessing)
    while batch := list(itertools.islice(images, 8)):
        pixels = np.stack([image for _, image in batch])
        answers.append(np.stack([probabilities(file.logits(pixels), file.task) for file in files]))
        compared += [record for record, _ in batch]
        if progress is not None:
            progress(len(compared), len(records))
    if len(compared) < LEAST:
        raise UserError(
            f"only {len(compared)} images of patients that the calibration did not use are left for the comparison; "
            f"expected at least {LEAST}: give more images, or a smaller --calibration-images"
        )
    p, q = np.concatenate(answers, axis=1)
    if not np.isfinite(q).all():
        raise UserError("the int8 network's outputs are not finite; nothing was written; export without --int8")
    found = {"images": len(compared), "max_difference": float(np.abs(p - q).max())}
    if network.task == "multilabel":
        return found | finding_agreement(known_findings(compared), p, q, network.classes, network.decisions)
    return found | class_agreement([record.label for record in compared], p, q, network.classes)


def class_agreement(labels: Sequence[str], p: np.ndarray, q: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compare the most probable class of each image before and after quantisation.

    ``p`` and ``q`` are the probabilities before and after quantisation, both (N, C).

    Returns:
        ``top_class``, the share of the images that keep their most probable class; ``accuracy_before`` and
        ``accuracy_after``, None if any image has no label.
    """
    truth = np.array([classes.index(label) for label in labels]) if all(labels) else None
    return {
        "top_class": float((p.argmax(1) == q.argmax(1)).mean()),
        "accuracy_before": None if truth is None else float((p.argmax(1) == truth).mean()),
        "accuracy_after": None if truth is None else float((q.argmax(1) == truth).mean()),
    }


def finding_agreement(
    truth: np.ndarray, p: np.ndarray, q: np.ndarray, findings: Sequence[str], decisions: Decisions
) -> dict[str, Any]:
    """Compare the decisions about findings before and after quantisation.

    ``p`` and ``q`` are the probabilities before and after quantisation, both (N, C). The threshold of a finding is its
    operating point for sensitivity, or 0.5 without an operating point. ``truth`` is 1, 0, or NaN where a finding is not
    known, (N, C).

    Returns:
        ``agreement_FINDING``, the share of the images that keep their decision; ``agreement``, the mean over the
        findings; ``auc_before`` and ``auc_after``, the mean AUC, None if no finding has an AUC.
    """
    points = {x.class_name: x.threshold for x in decisions.operating_points if x.rule == "sensitivity"}
    thresholds = np.array([points.get(name, 0.5) for name in findings])
    same = ((p >= thresholds) == (q >= thresholds)).mean(0)
    before, after = (finding_rankings(truth, table) for table in (p, q))
    return {
        "agreement": float(same.mean()),
        "auc_before": float(before.mean()) if before.size else None,
        "auc_after": float(after.mean()) if after.size else None,
        **{f"agreement_{name}": float(value) for name, value in zip(findings, same, strict=True)},
    }


def check_agreement(found: Mapping[str, Any], min_agreement: float, max_accuracy_drop: float) -> None:
    """Raise a UserError with the values of `compare` if the outputs of the quantised file differ too much."""
    if several := "agreement" in found:
        part, before, after = (found[key] for key in ("agreement", "auc_before", "auc_after"))
        figures = f"the decisions on findings agree on {part:.1%} of {found['images']} images, mean over the findings"
    else:
        part, before, after = (found[key] for key in ("top_class", "accuracy_before", "accuracy_after"))
        figures = f"the top class agrees on {part:.1%} of {found['images']} images"
    if before is not None:
        figures += f", {'the mean AUC' if several else 'accuracy'} goes from {before:.1%} to {after:.1%}"
    if part < min_agreement or (before is not None and before - after > max_accuracy_drop):
        raise UserError(
            f"int8 changes the predictions too much, so nothing was written: {figures}; expected agreement on at least "
            f"{min_agreement:.1%}, and {'a mean AUC' if several else 'an accuracy'} that drops by at most "
            f"{max_accuracy_drop:.1%}"
        )
