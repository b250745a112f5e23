"""The network of an ONNX file: pixels in, the logarithm of the mean probability out; and the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from cvrnet.cvrnet import CVRNet
from cvrnet.data import Preprocessing
from cvrnet.errors import UserError
from cvrnet.heads import log_mean_softmax
from cvrnet.runs.checkpoint import checkpoint_classes

OPSET = 18
INPUT, LOGITS, HEADS = "pixels", "logits", "head_logits"
NOTE = "Research software, not a medical device: not for diagnosis or treatment."
_KEPT = (
    *("architecture", "num_classes", "label_names", "input_size", "mean", "std", "interpolation"),
    *("crop_pct", "crop_mode", "license", "paper_name", "paper_ids"),
)
"""What of timm's ``pretrained_cfg`` goes into the file; the rest speaks of weights elsewhere, local paths among it."""


class PixelNetwork(nn.Module):
    """What an ONNX file computes: normalisation, every fold, and the mean of their probabilities.

    Args:
        models: The folds; with the same classes, preprocessing and heads.
        preprocessing: Theirs.
    """

    def __init__(self, models: Sequence[nn.Module], preprocessing: Preprocessing) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))
        self.averages_probabilities = all(isinstance(m, CVRNet) and m.head.average == "probabilities" for m in models)

    @property
    def float32_parts(self) -> list[str]:
        """Names of the submodules whose rounding costs most (``float32_parts`` of the encoders)."""
        return [
            f"models.{k}.encoders.{i}.{part}"
            for k, model in enumerate(self.models)
            if isinstance(model, CVRNet)
            for i, encoder in enumerate(model.encoders)
            for part in getattr(encoder, "float32_parts", ())
        ]

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images.

        Args:
            pixels: uint8 (N, C, H, W).

        Returns:
            (N, classes) logits whose softmax is the mean of the folds' softmaxes. Of CVR-Nets also (N, heads, classes):
            each head's logits, likewise.
        """
        x = pixels.float() * self.scale + self.shift
        models: list[Any] = list(self.models)
        if not self.averages_probabilities:
            return log_mean_softmax([model(x) for model in models])
        logits, heads = [], []
        for model in models:
            vectors = model.pool_maps(model.forward_maps(x))
            logits.append(model.head(vectors))
            heads.append(model.head.branch_logits(vectors))
        each = [log_mean_softmax(list(folds)) for folds in zip(*heads, strict=True)]
        return log_mean_softmax(logits), torch.stack(each, 1)


def trace(network: PixelNetwork, input_size: Sequence[int]) -> onnx.ModelProto:
    """The network's graph, for any number of images, with batch norm folded into convolutions.

    Args:
        network: In evaluation mode, on the CPU.
        input_size: Channels, height and width.

    Raises:
        UserError: PyTorch's exporter does not know an operation of the network.
    """
    pixels = torch.zeros((2, *input_size), dtype=torch.uint8)
    try:
        program = torch.onnx.export(
            network,
            (pixels,),
            input_names=[INPUT],
            output_names=[LOGITS, HEADS] if network.averages_probabilities else [LOGITS],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"this network cannot be exported to ONNX: {reason}") from error
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Remove stack traces, source lines and scopes, which name files of this machine."""
    del proto.metadata_props[:]
    for message in _annotated(proto):
        message.ClearField("doc_string")
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            message.ClearField("metadata_props")


def _annotated(proto: onnx.ModelProto) -> Iterator[Any]:
    yield proto
    yield from proto.functions
    for graph in [proto.graph, *proto.functions]:
        yield graph
        yield from graph.node
        yield from graph.value_info
        if isinstance(graph, onnx.GraphProto):
            yield from (*graph.initializer, *graph.input, *graph.output)


def describe(
    proto: onnx.ModelProto, model: nn.Module, preprocessing: Preprocessing, provenance: dict[str, Any]
) -> None:
    """Write class names, preprocessing and provenance into the file's metadata.

    Args:
        proto: The file.
        model: One of the folds.
        preprocessing: What images get.
        provenance: Where the weights come from.
    """
    cfg: Any = model.pretrained_cfg
    kept = {key: cfg[key] for key in _KEPT if cfg.get(key) is not None}
    kept |= {
        "label_names": checkpoint_classes(model),
        "num_classes": len(checkpoint_classes(model)),
        "input_size": list(preprocessing.input_size),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": preprocessing.interpolation,
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    channels, height, width = preprocessing.input_size
    proto.producer_name, proto.producer_version = "cvrnet", version("cvrnet")
    proto.graph.name = str(kept["architecture"])
    proto.doc_string = NOTE
    write_metadata(
        proto,
        {
            "pretrained_cfg": kept,
            "input": f"{INPUT}: uint8 (N, {channels}, {height}, {width}), {'RGB' if channels == 3 else 'grey'}, 0 to "
            "255; the whole image resized, aspect ratio not kept; normalisation by mean and std is in the graph",
            "output": f"{LOGITS}: softmax gives the probabilities of label_names",
            "provenance": provenance,
            "note": NOTE,
        },
    )


def write_metadata(proto: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Add to the metadata: texts as they are, anything else as JSON."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | texts)


def read_metadata(path: str | Path) -> tuple[dict[str, Any], int]:
    """The ``pretrained_cfg`` in an ONNX file's metadata, and how many heads the file answers for (0: no CVR-Net).

    The file may be anybody's: what it says of itself is held against its graph.

    Raises:
        UserError: There is no such file, it is damaged, or ``cvrnet export`` did not make it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an ONNX file of `cvrnet export`")
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(f"{path} is not an ONNX file, or is cut short") from error
    if not proto.graph.output:
        raise UserError(f"{path} is not an ONNX file, or is cut short")
    if any(onnx.external_data_helper.uses_external_data(tensor) for tensor in proto.graph.initializer):
        raise UserError(f"{path} keeps its weights in other files; expected a file of `cvrnet export`, which is whole")
    stored = {p.key: p.value for p in proto.metadata_props}.get("pretrained_cfg")
    if stored is None:
        raise UserError(f"{path} does not say its classes and preprocessing; expected a file of `cvrnet export`")
    try:
        cfg = json.loads(stored)
        size, names = [int(n) for n in cfg["input_size"]], [str(name) for name in cfg["label_names"]]
        str(cfg["architecture"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its metadata is damaged; expected a file of `cvrnet export`") from error
    inputs, outputs = _shapes(proto.graph.input), _shapes(proto.graph.output)
    if inputs.get(INPUT, [])[1:] != size or outputs.get(LOGITS, [])[1:] != [len(names)]:
        raise UserError(f"{path}: its metadata does not fit its graph; expected a file of `cvrnet export`")
    heads = outputs.get(HEADS)
    return cfg, heads[1] if heads else 0


def _shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int]]:
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
