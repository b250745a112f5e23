"""Check an untrusted ONNX file before an engine reads it, and return its metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from cvrnet.data import Preprocessing
from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions
from cvrnet.onnx.names import DISTANCES, HEADS, INPUT, LOGITS
from cvrnet.runs.label_names import check_names
from cvrnet.strict_json import parse_json
from cvrnet.task import check_num_classes

_MOST_BYTES = 2**31  # protobuf can read only smaller files
_MOST_NODES = 20_000  # engines take minutes for more; five folds of a `cvrnet` have 1,650
_OURS = "expected a file written by `cvrnet export`"
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Metadata:
    """The metadata of an ONNX file."""

    cfg: dict[str, Any]  #: timm's ``pretrained_cfg``, with ``label_names``
    task: str  #: ``multiclass`` or ``multilabel``
    num_heads: int  #: number of heads in the file's outputs; 0 if the file has no outputs for heads
    decisions: Decisions
    quantiles: list[NDArray[np.float64]]  #: quantiles of each fold's distances; empty for a file without distances


def read_metadata(path: str | Path) -> Metadata:
    """Check an ONNX file and return its metadata.

    Raises:
        UserError: The file is damaged, its metadata do not fit its graph, or it has parts that ``cvrnet export`` does
            not write, such as weights in other files, weights that are not finite, graphs inside the graph (loops),
            operators outside the ONNX standard, or more than 20,000 nodes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_OURS}")
    if (size := path.stat().st_size) >= _MOST_BYTES:
        raise UserError(f"{path} has {size:,} bytes; {_OURS}, of less than 2 GiB")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError):
        proto = onnx.ModelProto()
    if not proto.graph.output:  # other files can parse, too: every field of a protobuf message is optional
        raise UserError(f"{path} is not an ONNX file, or is cut short")
    if problem := _find_problem(proto):
        raise UserError(f"{path} {problem}; {_OURS}")
    try:
        metadata = {p.key: p.value for p in proto.metadata_props}
        cfg = parse_json(metadata["pretrained_cfg"])
        preprocessing, names, count = Preprocessing.from_cfg(cfg), cfg["label_names"], cfg["num_classes"]
        if not isinstance(names, list) or not isinstance(cfg["architecture"], str) or not isinstance(count, int):
            raise ValueError("architecture, label_names or num_classes has a wrong type")
        check_names(names, None)
        task = metadata.get("task", "multiclass")  # files of earlier versions do not state the task
        check_num_classes(count, task)
        decisions = Decisions.from_dict(parse_json(metadata.get("decisions", "null")), names)
        quantiles = _quantiles(parse_json(metadata.get("quantiles", "[]")))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else f"{error!s:.200}"
        raise UserError(f"{path}: its metadata are missing or wrong ({reason}); {_OURS}") from error
    classes, heads = _classes_and_heads(proto.graph, preprocessing)
    distances = [_shape(value) for value in proto.graph.output if value.name == DISTANCES]
    if not 1 <= classes == count == len(names) or (quantiles and (not heads or distances != [[0, len(quantiles)]])):
        raise UserError(f"{path}: its metadata do not fit its graph; {_OURS}")
    return Metadata(cfg, task, heads, decisions, quantiles)


def _quantiles(value: Any) -> list[NDArray[np.float64]]:
    """Return, for each fold, the quantiles of images' distances from its training images.

    Raise ValueError if the value cannot be quantiles.
    """
    if not isinstance(value, list) or not all(isinstance(v, list) and 2 <= len(v) <= 10_000 for v in value):
        raise ValueError("the quantiles of the distances from the training images have an unexpected form")
    found = [np.array(v, np.float64) for v in value]
    if not all(v.ndim == 1 and np.isfinite(v).all() and (np.diff(v) >= 0).all() for v in found):
        raise ValueError(
            "the quantiles of the distances from the training images are not in ascending order, or not finite"
        )
    return found


def _find_problem(proto: onnx.ModelProto) -> str:
    """Return the first part of the file that ``cvrnet export`` does not write, in words; "" if there is none."""
    if len(proto.graph.node) > _MOST_NODES:
        return f"has a graph of {len(proto.graph.node):,} nodes"
    if proto.functions or proto.training_info:
        return "holds functions or a training graph"
    for message in _messages(proto.graph):
        if isinstance(message, onnx.GraphProto):
            return "holds a graph inside its graph (a loop or a branch)"
        if isinstance(message, onnx.NodeProto) and message.domain not in ("", "ai.onnx"):
            return f"has an operator of the domain {message.domain!r:.80}"
        if isinstance(message, onnx.AttributeProto) and any(map(math.isnan, (message.f, *message.floats))):
            return f"holds NaN in {message.name!r:.80}"
        if isinstance(message, onnx.TensorProto):
            if message.external_data or onnx.external_data_helper.uses_external_data(message):
                return "keeps its weights in other files"
            if message.data_type in _FLOATS and not _is_finite(message):
                return f"holds NaN or infinity in {message.name!r:.80}"
    return ""


def _messages(message: Message) -> Iterator[Message]:
    """Yield all messages inside a message, at every level."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield part
                yield from _messages(part)


def _is_finite(tensor: onnx.TensorProto) -> bool:
    """Return whether all values are finite. A single number may be infinite: the limit of an operator such as Clip."""
    try:
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError):
        return True  # the values do not fit the shape: the engine will refuse the file
    return bool(np.isfinite(array).all() or (array.size == 1 and not np.isnan(array).any()))


def _classes_and_heads(graph: onnx.GraphProto, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the numbers of classes and heads, from a graph's input and output shapes; 0, 0 for wrong shapes."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shapes = {value.name: _shape(value) for value in (*inputs, *graph.output)}
    kinds = [value.type.tensor_type.elem_type for value in (*inputs, *graph.output)]
    expected = [onnx.TensorProto.UINT8, *(onnx.TensorProto.FLOAT for _ in graph.output)]
    logits, heads = shapes.get(LOGITS, []), shapes.get(HEADS)
    fits = [value.name for value in inputs] == [INPUT] and kinds == expected
    fits = fits and shapes[INPUT] == [0, *preprocessing.input_size] and len(logits) == 2 and logits[0] == 0
    if heads is not None:
        fits = fits and len(heads) == 3 and heads[0] == 0 and heads[1] > 0 and heads[2] == logits[1]
    return logits[1] if fits else 0, heads[1] if fits and heads else 0


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Return the length of each axis; 0 for an axis that may have any length."""
    return [axis.dim_value for axis in value.type.tensor_type.shape.dim]
