"""Convert a Keras checkpoint of the CVR-Net papers' authors to a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from cvrnet.encoders.network_size import create_on_meta
from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.keras.layers import KerasWeight, keras_weights, quoted, rename_automatic
from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.folder import RunFolder, claim_folder, open_run_folder
from cvrnet.runs.hub_download import file_hash
from cvrnet.runs.layout import RUN

if TYPE_CHECKING:
    from cvrnet.keras.hdf5 import LayerWeights, StoredWeight

KIND, MODEL = "convert-keras", "cvrnet_keras"
MAX_CLASSES = 1000
SHOWN = 20  # a message lists at most this many problems, and counts the rest


def convert_keras(
    file: str | Path, folder: str | Path, classes: Sequence[str] | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Make a run folder from a Keras checkpoint of the network that the CVR-Net papers' authors built in a notebook.

    Args:
        file: HDF5 file that Keras 2's ``save_weights`` or ``model.save`` wrote.
        folder: The run folder to write, with config.json, model.safetensors and run.json.
        classes: Class names in the order of the outputs (alphabetical if ``flow_from_directory`` made them);
            ``class_0`` and so on by default, because the file has no class names.
        overwrite: Replace an existing run.

    Returns:
        The content of run.json: the source of the model, its class names and image channels, and versions.

    Raises:
        UserError: The file is not a checkpoint of this network, the class names do not fit it, or the folder holds
            files that the conversion may not replace. In these cases nothing is written.
    """
    file, folder = Path(file), Path(folder)
    if overwrite and (folder / RUN).is_file() and folder.resolve() in file.resolve().parents:
        raise UserError(f"{file} is in {folder}, which would be replaced; choose another folder")
    with open_run_folder(folder, KIND, overwrite=overwrite) as place:
        return _convert(file, place, classes)


def _convert(file: Path, place: RunFolder, classes: Sequence[str] | None) -> dict[str, Any]:
    model = load_keras(file)
    names = [f"class_{i}" for i in range(model.num_classes)] if classes is None else list(classes)
    if len(names) != model.num_classes or len(set(names)) != len(names) or not all(map(str.strip, names)):
        raise UserError(
            f"class names {', '.join(map(repr, names))} do not fit {file.name}; "
            f"expected {model.num_classes} different names, in the order of the network's outputs"
        )
    run = {
        "kind": KIND,
        "source": {"file": file.name, "sha256": file_hash(file)},
        "classes": names,
        "config": {"model": MODEL, "in_chans": model.in_chans},
        "versions": {name: version(name) for name in ("cvrnet", "torch", "timm", "h5py")},
    }
    place.start()
    claim_folder(place.folder, run)
    save_checkpoint(model, place.folder, names)
    return run


def load_keras(file: str | Path) -> CVRNet:
    """Load a Keras checkpoint as a network in evaluation mode, with the file's number of classes and image channels.

    Raises:
        UserError: The file is not a checkpoint of the network that the CVR-Net papers' authors built in a notebook. The
            message names weights that are missing, surplus (unknown to the network) or of a wrong shape.
    """
    try:
        return _load(Path(file))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _load(file: Path) -> CVRNet:
    from cvrnet.keras.hdf5 import read_weights  # here, because h5py is an extra

    state: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    layers = read_weights(file)
    names = rename_automatic([weight.layer for weight in keras_weights()], layers)
    num_classes, in_chans = _sizes(layers, names["dense_3"])
    model = cast(CVRNet, create_on_meta(MODEL, num_classes=num_classes, in_chans=in_chans))
    for weight, stored in _match(layers, names, model.state_dict()):
        values = torch.from_numpy(stored.values()).permute(weight.axes).contiguous()
        if weight.name == "moving_variance" and values.min() < 0:
            raise UserError(f"{quoted(stored.path)} has negative values; expected a variance")
        (biases if weight.folded else state)[weight.target] = values
    # timm's convolutions have no biases. So a convolution's bias b is subtracted from the running mean m of the batch
    # norm that follows: for the convolution's output y without bias, (y + b) - m = y - (m - b).
    for running_mean, bias in biases.items():
        state[running_mean] -= bias
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**state, **counters}, assign=True)
    return model.eval()


def _sizes(layers: LayerWeights, classifier: str) -> tuple[int, int]:
    """Return the numbers of classes and image channels; defaults if a weight is missing (`_match` then reports it)."""
    bias, stem = layers.get(classifier, {}).get("bias"), layers.get("res_conv1", {}).get("kernel")
    num_classes = 2 if bias is None else math.prod(bias.shape)
    if not 2 <= num_classes <= MAX_CLASSES:
        raise UserError(
            f"{count(num_classes, 'class', 'classes')} (layer {quoted(classifier)}); expected 2 to {MAX_CLASSES}"
        )
    return num_classes, 1 if stem is not None and stem.shape[2:3] == (1,) else 3


def _match(
    layers: LayerWeights, names: Mapping[str, str], state: Mapping[str, Tensor]
) -> list[tuple[KerasWeight, StoredWeight]]:
    """Pair every weight of the network with its weight in the file; UserError names the weights that do not fit."""
    expected = {f"{names[weight.layer]}/{weight.name}": weight for weight in keras_weights()}
    found = {f"{layer}/{name}": stored for layer, weights in layers.items() for name, stored in weights.items()}
    problems = [f"{quoted(place)} is missing" for place in expected if place not in found]
    problems += [f"{quoted(place)} is surplus" for place in found if place not in expected]
    for place, weight in expected.items():
        shape = weight.keras_shape(state[weight.target].shape)
        if place in found and found[place].shape != shape:
            problems.append(f"{quoted(place)} has the shape {found[place].shape}, expected {shape}")
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"not the authors' network: {'; '.join(problems[:SHOWN])}{more}")
    return [(weight, found[place]) for place, weight in expected.items()]
