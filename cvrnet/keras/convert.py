"""From one of the authors' Keras checkpoints to a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from torch import Tensor

from cvrnet.cvrnet import CVRNet
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.keras.layers import KerasWeight, keras_weights, quoted, rename_automatic
from cvrnet.runs.checkpoint import save_checkpoint
from cvrnet.runs.hub_hashes import file_hash

if TYPE_CHECKING:
    from cvrnet.keras.hdf5 import LayerWeights, StoredWeight

MODEL = "cvrnet_keras"
MAX_CLASSES = 1000
SHOWN = 20
"""Names that one message lists of each kind of problem; it counts the rest."""


def convert_keras(
    file: str | Path, folder: str | Path, classes: Sequence[str] | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Make a run folder from a Keras checkpoint of the notebook's network.

    Args:
        file: HDF5 file of Keras 2's ``save_weights`` or ``model.save``.
        folder: The run folder: config.json, model.safetensors and run.json.
        classes: Class names in the order of the outputs (alphabetical, where ``flow_from_directory`` made them);
            ``class_0`` and so on by default, since the file holds none.
        overwrite: Replace a run that is there.

    Returns:
        What run.json holds: where the model comes from, its class names and image channels, versions.

    Raises:
        UserError: The file is not such a checkpoint, the names do not fit it, or the folder exists. Nothing is written.
    """
    file, folder = Path(file), Path(folder)
    _check_output(folder, overwrite)
    if overwrite and folder.resolve() in file.resolve().parents:
        raise UserError(f"{file} is in {folder}, which would be replaced; choose another folder")
    model = load_keras(file)
    names = [f"class_{i}" for i in range(model.num_classes)] if classes is None else list(classes)
    if len(names) != model.num_classes or len(set(names)) != len(names) or not all(map(str.strip, names)):
        raise UserError(
            f"class names {', '.join(map(repr, names))} do not fit {file.name}; "
            f"expected {model.num_classes} different names, in the order of its outputs"
        )
    description = _describe(file, names, model.in_chans)
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    save_checkpoint(model, folder, names)
    write_json(folder / "run.json", description)
    return description


def load_keras(file: str | Path) -> CVRNet:
    """The network of a Keras checkpoint, in evaluation mode; number of classes and image channels as in the file.

    Convolution biases go into the running means of the batch norm behind them, which is exact.

    Args:
        file: HDF5 file of Keras 2's ``save_weights`` or ``model.save``.

    Raises:
        UserError: The file is not such a checkpoint; what is missing, surplus or of another shape is named.
    """
    from cvrnet.keras.hdf5 import open_weights  # here, since h5py is an extra

    state: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    with open_weights(file) as layers:
        num_classes, in_chans = _sizes(layers, file)
        model = cast(CVRNet, timm.create_model(MODEL, num_classes=num_classes, in_chans=in_chans, device="meta"))
        for weight, stored in _match(layers, model.state_dict(), file):
            values = torch.from_numpy(stored.read()).permute(weight.axes).contiguous()
            if weight.name == "moving_variance" and values.min() < 0:
                raise UserError(f"{file}: {quoted(stored.place)} has negative values; a variance has none")
            (biases if weight.folded else state)[weight.target] = values
    for running_mean, bias in biases.items():
        state[running_mean] -= bias
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**state, **counters}, assign=True)
    return model.eval()


def _sizes(layers: LayerWeights, file: str | Path) -> tuple[int, int]:
    """Classes and image channels, from the only shapes that are free; the usual ones where these are no answer."""
    names = rename_automatic([w.layer for w in keras_weights()], layers)
    classifier = layers.get(names["dense_3"], {}).get("bias")
    stem = layers.get("res_conv1", {}).get("kernel")
    num_classes = classifier.shape[0] if classifier and len(classifier.shape) == 1 else 2
    if not 2 <= num_classes <= MAX_CLASSES:
        raise UserError(f"{file}: {num_classes} classes (layer {names['dense_3']!r}); expected 2 to {MAX_CLASSES}")
    return num_classes, 1 if stem and len(stem.shape) == 4 and stem.shape[2] == 1 else 3


def _match(
    layers: LayerWeights, state: Mapping[str, Tensor], file: str | Path
) -> list[tuple[KerasWeight, StoredWeight]]:
    """Pair every weight of the network with the file's, or name all that does not pair up."""
    weights = keras_weights()
    names = rename_automatic([w.layer for w in weights], layers)
    expected = {(names[w.layer], w.name): w.keras_shape(state[w.target].shape) for w in weights}
    found = {(layer, name): stored for layer, its in layers.items() for name, stored in its.items()}
    problems = {
        "missing": [_place(*place, layers) for place in expected if place not in found],
        "surplus": [_place(*place, {layer for layer, _ in expected}) for place in found if place not in expected],
        "misshapen": [
            f"{quoted('/'.join(place))} {found[place].shape}, expected {shape}"
            for place, shape in expected.items()
            if place in found and found[place].shape != shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_listed(places)}" for kind, places in problems.items() if places)
        raise UserError(f"{file}: not the notebook's network; {told}")
    return [(w, found[names[w.layer], w.name]) for w in weights]


def _place(layer: str, name: str, layers: Collection[str]) -> str:
    """A weight, or its whole layer where that is not among the others' layers."""
    return quoted(f"{layer}/{name}" if layer in layers else layer)


def _listed(places: Sequence[str]) -> str:
    places = list(dict.fromkeys(places))
    shown = ", ".join(places[:SHOWN])
    return shown if len(places) <= SHOWN else f"{shown} and {len(places) - SHOWN} more"


def _check_output(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise UserError(f"{folder} is a file; expected a folder for the run")
    if folder.is_dir() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"{folder} exists; --overwrite replaces it")
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder} exists and is not a run; choose another folder")


def _describe(file: Path, classes: Sequence[str], in_chans: int) -> dict[str, Any]:
    return {
        "kind": "convert-keras",
        "source": {"file": file.name, "sha256": file_hash(file)},
        "classes": list(classes),
        "config": {"model": MODEL, "in_chans": in_chans},
        "versions": {name: version(name) for name in ("cvrnet", "torch", "timm", "h5py")},
    }
