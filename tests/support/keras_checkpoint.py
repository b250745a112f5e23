"""Make the checkpoint for which Keras 2.3.1 computed fixtures/keras/expected.npz again, bit for bit.

Each weight is a function of (seed, layer, weight, shape). The scales are chosen so that differences between images
reach the outputs, and every detail of the graph changes them: small convolutions, so that batch norm's epsilon has an
effect; large moving means and biases; some negative gammas.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import h5py
import numpy as np

import cvrnet  # noqa: F401  # registers the models
from cvrnet.encoders.network_size import create_on_meta
from cvrnet.keras.layers import keras_weights

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras"
STEM_GAIN = {"res_conv1": 150.0, "xce_block1_conv1": 1.5}
OUTPUT_STD: dict[str, float] = json.loads((FIXTURES / "output_std.json").read_text())
"""Standard deviation of each encoder convolution's output, measured once, for the statistics of the batch norm."""

Shapes = dict[str, dict[str, tuple[int, ...]]]


@cache
def notebook_shapes(classes: int = 3, channels: int = 3) -> Shapes:
    """Return the layers with weights, and the shape of each weight in Keras."""
    model = create_on_meta("cvrnet_keras", num_classes=classes, in_chans=channels)
    state = model.state_dict()
    layers: Shapes = {}
    for weight in keras_weights():
        layers.setdefault(weight.layer, {})[weight.name] = weight.keras_shape(state[weight.target].shape)
    return layers


def make_weight(layer: str, name: str, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Return one weight, float32."""
    uniform = _uniform(seed, layer, name, shape)
    signed = 2 * uniform - 1
    encoder = layer.startswith(("res_", "xce_"))
    gain = STEM_GAIN.get(layer, 0.1)
    if name == "depthwise_kernel":
        values = signed * math.sqrt(3 / 9)
    elif name == "pointwise_kernel":
        values = _nearly_cancelling(signed * gain * math.sqrt(6 / shape[2]))
    elif name == "kernel" and encoder:
        values = signed * gain * math.sqrt(6 / math.prod(shape[:3])) / (150.0 if layer in STEM_GAIN else 1.0)
        values = _nearly_cancelling(values)
    elif name == "kernel":
        values = _nearly_cancelling((signed * math.sqrt(6 / shape[0]))[None, None])[0, 0]
        values = values * (1.5 if shape[0] >= 512 else 0.4 if shape[0] == 64 else 1.0)
    elif name == "bias":
        values = signed * (0.5 * OUTPUT_STD[layer] if encoder else 0.2)
    elif name == "gamma":
        ends_branch = re.search(r"branch2c$|sepconv3_bn$|block(2|3|4|13)_sepconv2_bn$", layer)
        values = 0.5 + 0.5 * uniform if ends_branch else 0.6 + 0.8 * uniform
        values = np.where(_uniform(seed, layer, "sign", shape) < 0.15, -values, values)
    elif name == "beta":
        values = 0.5 * signed
    elif name == "moving_mean":
        values = 0.7 * OUTPUT_STD[_normalised(layer)] * signed
    else:
        values = OUTPUT_STD[_normalised(layer)] ** 2 * (0.4 + 1.2 * uniform)
    return values.astype("float32")


def make_images(size: int, seed: int = 1) -> np.ndarray:
    """Return a colour and a grey image, (2, size, size, 3) uint8: squares, noise, a ramp, and a disc on the first."""
    ramp = np.arange(size)
    images = np.empty((2, size, size, 3), "uint8")
    for i, channels in enumerate((3, 1)):
        squares = -(-size // 16)
        coarse = np.floor(256 * _uniform(seed, "coarse", i, (squares, squares, channels)))
        noise = np.floor(256 * _uniform(seed, "noise", i, (size, size, channels)))
        mixed = (3 * coarse.repeat(16, 0).repeat(16, 1)[:size, :size] + noise) // 4
        slope = (ramp * 255 // (size - 1)).reshape((1, -1, 1) if i else (-1, 1, 1))
        mixed = (2 * mixed + slope) // 3
        if i == 0:
            mixed[(ramp[:, None] - size // 3) ** 2 + (ramp - size // 2) ** 2 < (size // 5) ** 2] = (250, 40, 120)
        images[i] = mixed
    return images


def _uniform(seed: int, part: str, name: str | int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(f"{seed}/{part}/{name}".encode())).random_sample(shape)


def _nearly_cancelling(kernel: np.ndarray) -> np.ndarray:
    """Make each odd input channel nearly cancel the channel before; with three channels, use halves of all taps."""
    if kernel.shape[2] % 2:
        taps = kernel.reshape(-1, kernel.shape[3])
        half = len(taps) // 2
        taps[half : 2 * half] = 0.5 * taps[half : 2 * half] - 0.8 * taps[:half]
        return taps.reshape(kernel.shape)
    kernel[:, :, 1::2] = 0.5 * kernel[:, :, 1::2] - 0.8 * kernel[:, :, 0::2]
    return kernel


def _normalised(norm: str) -> str:
    """The name of the convolution before a batch norm."""
    if norm.startswith("xce_batch_normalization"):
        return norm.replace("batch_normalization", "conv2d")
    if norm.startswith("xce_"):
        return norm.removesuffix("_bn")
    return "res_conv1" if norm == "res_bn_conv1" else norm.replace("res_bn", "res_res")


def write_checkpoint(
    path: Path,
    *,
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    values: Callable[[str, str, tuple[int, ...]], np.ndarray | None] | None = None,
    rename: Callable[[str], str] = str,
    nested: bool = False,
    pieces: bool = False,
    text: bool = False,
) -> Path:
    """Write an HDF5 file as Keras 2 does; return its path.

    Args:
        path: The file.
        shapes: Layers and the shapes of their weights.
        values: Makes the values; without it, or where it returns None, the file declares a shape but has no values.
        rename: Renames layers.
        nested: Write as ``model.save`` does, under ``model_weights``; otherwise as ``save_weights`` does.
        pieces: Split the lists of names, as Keras does above 64,512 bytes.
        text: Write names as variable-length text; otherwise as bytes.
    """

    def name_list(group: h5py.Group, attribute: str, names: list[str]) -> None:
        encoded = names if text else [name.encode() for name in names]
        kind = {"dtype": h5py.string_dtype()} if text and names else {}
        if pieces and len(names) > 1:
            for i, part in enumerate(np.array_split(np.asarray(encoded, **kind), 2)):
                group.attrs[f"{attribute}{i}"] = part
        else:
            group.attrs.create(attribute, np.asarray(encoded), **kind)

    shapes = notebook_shapes() if shapes is None else shapes
    layers = ["input_1", *shapes, "average_1"]  # the first and the last have no weights
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        name_list(root, "layer_names", [rename(layer) for layer in layers])
        root.attrs["backend"] = "tensorflow" if text else b"tensorflow"
        root.attrs["keras_version"] = "2.3.1" if text else b"2.3.1"
        for layer in layers:
            group = root.create_group(rename(layer))
            scope = rename(layer).removeprefix("res_").removeprefix("xce_")  # renamed after building: the old scope
            weights = shapes.get(layer, {})
            name_list(group, "weight_names", [f"{scope}/{name}:0" for name in weights])
            for name, shape in weights.items():
                data = None if values is None else values(layer, name, shape)
                group.create_dataset(f"{scope}/{name}:0", shape, "f4", data)
    return path
