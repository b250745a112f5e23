"""Build the network that is exported, its ONNX graph, and the metadata of the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import onnx
import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from cvrnet.errors import UserError
from cvrnet.heads import log_mean
from cvrnet.heads.novelty import map_sides
from cvrnet.metrics.decisions import Decisions
from cvrnet.network import CVRNet
from cvrnet.onnx.names import DISTANCES, HEADS, INPUT, LOGITS
from cvrnet.runs.checkpoint import checkpoint_task, shared_settings

OPSET = 18
NOTE = "Research software, not a medical device: not for diagnosis or treatment."
_KEPT = ("architecture", "license", "paper_name", "paper_ids", "notes")
"""Keys that are copied from timm's ``pretrained_cfg``. Other keys can hold local paths, such as that of weights."""


class PixelNetwork(nn.Module):
    """The network that is written to an ONNX file: normalisation, all folds, and the mean of their probabilities.

    Height and width of the images are `img_size` or, by default, the size of the training.
    """

    def __init__(self, models: Sequence[nn.Module], img_size: int | None = None) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.classes, preprocessing = shared_settings(models)
        self.task = checkpoint_task(models[0])
        if img_size is not None:
            size = (preprocessing.input_size[0], img_size, img_size)
            preprocessing = dataclasses.replace(preprocessing, input_size=size)
        self.preprocessing = preprocessing
        # (pixels / 255 - mean) / std as one multiplication and one addition. The constants are computed in float64, and
        # rounded to float32 only once.
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))
        self.decisions = Decisions()  #: written into the file
        self.novelty: Any = nn.ModuleList()  #: a `NoveltyHead` for each fold, or none
        self.averages_probabilities = all(isinstance(m, CVRNet) and m.head.average == "probabilities" for m in models)

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs of `forward`."""
        return [LOGITS, *([HEADS] if self.averages_probabilities else []), *([DISTANCES] if self.novelty else [])]

    @property
    def float32_parts(self) -> list[str]:
        """Names of the submodules in which 8-bit rounding costs most accuracy."""
        return [
            f"models.{k}.encoders.{i}.{part}"
            for k, model in enumerate(self.models)
            if isinstance(model, CVRNet)
            for i, encoder in enumerate(model.encoders)
            for part in _exact_parts(encoder)
        ]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Classify images, uint8 (N, C, H, W).

        Returns:
            Logits (N, classes) whose softmax (for findings, sigmoid) is the mean of the folds' probabilities; if the
            model has a calibration, it is applied to this mean. For CVR-Nets that average probabilities, also the
            logits of each head, (N, heads, classes), averaged over the folds in the same way, but not calibrated. With
            ``novelty``, also the distances of the images from each fold's training images, (N, folds).
        """
        x = pixels.float() * self.scale + self.shift
        models: list[Any] = list(self.models)
        if not self.averages_probabilities:
            return (self._calibrate(log_mean([model(x) for model in models], self.task)),)
        logits, heads, distances = [], [], []
        for i, model in enumerate(models):
            maps = model.forward_maps(x)
            vectors = model.pool_maps(maps)
            if self.novelty:
                distances.append(self.novelty[i](vectors, map_sides(maps, model.groups)))
            branches = model.head.branch_logits(vectors)
            logits.append(model.head.combine(branches))
            heads.append(torch.stack(branches, 1))
        # Logits, not probabilities: users apply softmax to a classifier's output, and then get the mean probabilities.
        answers = self._calibrate(log_mean(logits, self.task)), log_mean(heads, self.task)
        return (*answers, torch.stack(distances, 1)) if self.novelty else answers

    def _calibrate(self, logits: Tensor) -> Tensor:
        calibration = self.decisions.calibration
        return logits if calibration is None else calibration.scale * logits + torch.tensor(calibration.bias)


def trace(network: PixelNetwork) -> onnx.ModelProto:
    """Return the ONNX graph of a network (in evaluation mode, with batch norm folded in), for any number of images."""
    # Two images: torch.export would treat a batch size of one as a constant.
    pixels = torch.zeros((2, *network.preprocessing.input_size), dtype=torch.uint8)
    try:
        with torch.no_grad(), _plain_attention(network):  # tracing with gradients takes longer
            program = torch.onnx.export(
                network,
                (pixels,),
                input_names=[INPUT],
                output_names=network.outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # PyTorch's own message is general; the original error is specific
            cause = cause.__cause__
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"this network cannot be exported to ONNX: {reason}") from error
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    return proto


@contextmanager
def _plain_attention(network: nn.Module) -> Iterator[None]:
    """In this context, compute attention by matrix products instead of the fused kernel.

    PyTorch exports the fused kernel only for tensors of four dimensions, and Hiera's attention has five. Every
    attention layer of timm has the attribute ``fused_attn``.
    """
    fused: list[Any] = [module for module in network.modules() if getattr(module, "fused_attn", False) is True]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


def _strip(message: Message) -> None:
    """Remove stack traces, source lines and scopes from a graph at every level: they name files on this machine."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _strip(part)


def describe(proto: onnx.ModelProto, network: PixelNetwork, provenance: dict[str, Any]) -> None:
    """Write class names, preprocessing, decisions and provenance into the metadata of a network's ONNX file."""
    origin: Any = network.models[0].pretrained_cfg
    cfg = {
        **{key: origin[key] for key in _KEPT if origin.get(key) is not None},
        **{name: getattr(network.preprocessing, name) for name in ("input_size", "mean", "std", "interpolation")},
        "label_names": network.classes,
        "num_classes": len(network.classes),
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    channels, height, width = network.preprocessing.input_size
    _lower_versions(proto)
    proto.producer_name, proto.producer_version = "cvrnet", version("cvrnet")
    proto.graph.name = str(cfg["architecture"])
    proto.doc_string = NOTE
    values = {
        "pretrained_cfg": cfg,
        "input": f"{INPUT}: uint8 (N, {channels}, {height}, {width}), {'RGB' if channels == 3 else 'grey'}, 0 to "
        "255; the whole image resized, aspect ratio not kept; normalisation by mean and std is in the graph",
        "task": network.task,
        "output": f"{LOGITS}: {'sigmoid' if network.task == 'multilabel' else 'softmax'} gives the probabilities of "
        "label_names",
        "provenance": provenance,
        "decisions": network.decisions.to_dict(),
        "quantiles": [head.quantiles.tolist() for head in network.novelty],
        "note": NOTE,
    }
    write_metadata(proto, values)


def _lower_versions(proto: onnx.ModelProto) -> None:
    """Declare only the operator sets in use, and the lowest IR version that supports them.

    Older engines refuse a model that declares a newer version than they know.
    """
    used = {node.domain for node in proto.graph.node}
    opsets = [opset for opset in proto.opset_import if opset.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    proto.ir_version = onnx.helper.find_min_ir_version_for(opsets)


def write_metadata(proto: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Add values to the metadata: texts unchanged, anything else as JSON."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, allow_nan=False) for key, value in values.items()
    }
    onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | texts)


def _exact_parts(encoder: Any) -> tuple[str, ...]:
    """Return an encoder's ``float32_parts`` (if None, its first convolutions), and its ``int8_float32_parts``."""
    listed: tuple[str, ...] | None = getattr(encoder, "float32_parts", None)
    return *(encoder.first_conv if listed is None else listed), *getattr(encoder, "int8_float32_parts", ())
