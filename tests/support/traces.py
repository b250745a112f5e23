"""Networks traced to ONNX once, for all workers: tracing takes longer than everything else in a tiny export."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.shared import made_once

if TYPE_CHECKING:
    import onnx

    from cvrnet.onnx.graph import PixelNetwork


NOT_TRACED = {
    "_arguments",
    "_model_args",
    "default_cfg",
    "float32_parts",
    "pretrained_cfg",
    "pretrained_model_args",
}
"""Attributes of modules that say how these were made, or are used elsewhere."""
LARGE = 5_000_000
"""Parameters of a network that only one test exports: to compare and copy it takes longer than to trace a tiny one."""


def trace_once(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Trace a network only if none that is the same but for its weights was traced before; ``folder`` keeps graphs.

    The export compares every file with its network on images, so weights in the wrong place fail the test.
    """
    import onnx
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    import cvrnet.onnx.export

    really = cvrnet.onnx.export.trace
    # For each export, PyTorch parses the source of all its ONNX functions: a tenth of the time of a small network.
    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))

    def trace(network: PixelNetwork) -> onnx.ModelProto:
        if sum(parameter.numel() for parameter in network.parameters()) > LARGE:
            return really(network)
        try:
            digest = digest_of(network)
        except (AttributeError, pickle.PicklingError):  # an encoder of a test's own
            return really(network)
        path = folder / f"{digest}.onnx"
        proto = onnx.load(made_once(path, lambda path: onnx.save(_mark(really(network), network), path)))
        _fill(proto, network)
        return proto

    patch.setattr(cvrnet.onnx.export, "trace", trace)


def digest_of(network: PixelNetwork) -> str:
    """A digest of all of a network that is in its graph, but for the values of its tensors.

    It says which tensors are zero, and which are equal: PyTorch leaves the former out of a graph, and joins the latter.
    """
    described = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for part in network.modules():
            for name in NOT_TRACED & {*vars(part)}:
                patch.delattr(part, name)
        patch.setattr(network, "classes", [])
        patch.setattr(network, "preprocessing", network.preprocessing.input_size)
        patch.setattr(network, "decisions", network.decisions.calibration)
        describer = _Describer(described)
        describer.fast = True  # no references to what was written before: they tell which equal strings are one object
        describer.dump(network)
    return hashlib.sha256(described.getvalue()).hexdigest()[:32]


class _Describer(pickle.Pickler):
    """Writes the same bytes for the same structure, whichever objects are shared, and without values of tensors."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._contents: dict[bytes, int] = {}

    def persistent_id(self, value: object) -> object:
        """Describe tensors and sets, whose order differs between processes, by what is the same in all of them."""
        import torch

        if isinstance(value, torch.Tensor):
            content = hashlib.sha256(value.detach().numpy().tobytes()).digest()
            first = self._contents.setdefault(content, len(self._contents))
            return str(value.dtype), *value.shape, bool(value.any()), first
        return sorted(value) if isinstance(value, set | frozenset) else None


def _tensors(network: PixelNetwork) -> dict[str, np.ndarray]:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _mark(proto: onnx.ModelProto, network: PixelNetwork) -> onnx.ModelProto:
    """Note which constants are transposed matrices of novelty heads: PyTorch does not name them."""
    from onnx import numpy_helper

    tensors = _tensors(network)
    matrices = {name: value for name, value in tensors.items() if name.startswith("novelty.") and value.ndim == 2}
    for constant in proto.graph.initializer:
        if constant.name not in tensors:
            value = numpy_helper.to_array(constant)
            constant.doc_string = next((name for name in matrices if np.array_equal(matrices[name].T, value)), "")
    return proto


def _fill(proto: onnx.ModelProto, network: PixelNetwork) -> None:
    """Give a graph the values of a network's tensors, which have the same names."""
    from onnx import numpy_helper

    tensors = _tensors(network)
    for value in proto.graph.initializer:
        if value.name in tensors:
            value.CopyFrom(numpy_helper.from_array(tensors[value.name], value.name))
        elif value.doc_string:
            value.CopyFrom(numpy_helper.from_array(tensors[value.doc_string].T, value.name))
