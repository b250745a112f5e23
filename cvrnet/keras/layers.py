"""Map the weights of the Keras network of the CVR-Net papers' authors to the parameters of our ``cvrnet_keras``.

The authors built this network in a notebook (docs/keras.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# Keras's axes in PyTorch's order: kernels (H, W, in, out) become (out, in, H, W), and dense weights are transposed.
CONV, DEPTHWISE, DENSE, VECTOR = (3, 2, 0, 1), (2, 3, 0, 1), (1, 0), (0,)

HEADS = (3, 2, 1, 4, 5)
"""The papers number the heads in another order than the notebook. ``HEADS[i - 1]`` is the papers' number of the
notebook's head i, which has the layers ``dense_{3i-2}, dense_{3i-1}, MKH_i, dense_{3i}``."""


@dataclass(frozen=True)
class KerasWeight:
    """A weight of a Keras layer, and the parameter or buffer of our network that takes it."""

    layer: str  #: the layer's name as Keras gives it in a new process
    name: str  #: the weight's name in the layer, such as ``kernel``
    target: str  #: the name of the parameter or buffer in our network
    axes: tuple[int, ...] = VECTOR  #: Keras's axes in our order
    folded: bool = False  #: whether this is a convolution's bias, which is folded into the running mean `target`

    def keras_shape(self, shape: Collection[int]) -> tuple[int, ...]:
        """Return the Keras shape, such as (7, 7, 3, 64), of a parameter whose shape is (64, 3, 7, 7) in our network."""
        ours = dict(zip(self.axes, shape, strict=True))
        return tuple(ours[axis] for axis in range(len(ours)))


def keras_weights() -> list[KerasWeight]:
    """Return all weights of the Keras network that the CVR-Net papers' authors built in a notebook."""
    return [*_resnet("encoders.0.backbone."), *_xception("encoders.1."), *_heads("head.blocks.")]


def _norm(layer: str, module: str) -> Iterator[KerasWeight]:
    for name, ours in NORM.items():
        yield KerasWeight(layer, name, f"{module}.{ours}")


def _resnet(to: str) -> Iterator[KerasWeight]:
    units = [("conv1", "bn_conv1", "conv1", "bn1")]
    for stage, blocks in zip("2345", ("abc", "abcd", "abcdef", "abc"), strict=True):
        for i, block in enumerate(blocks):
            ours = f"layer{int(stage) - 1}.{i}"
            for branch, conv, norm in (("2a", "conv1", "bn1"), ("2b", "conv2", "bn2"), ("2c", "conv3", "bn3"),
                                       ("1", "downsample.0", "downsample.1")):  # fmt: skip
                if branch != "1" or block == "a":
                    name = f"{stage}{block}_branch{branch}"
                    units.append((f"res{name}", f"bn{name}", f"{ours}.{conv}", f"{ours}.{norm}"))
    for keras_conv, keras_norm, conv, norm in units:
        yield KerasWeight(f"res_{keras_conv}", "kernel", f"{to}{conv}.weight", CONV)
        yield KerasWeight(f"res_{keras_conv}", "bias", f"{to}{norm}.running_mean", folded=True)
        yield from _norm(f"res_{keras_norm}", f"{to}{norm}")


def _xception(to: str) -> Iterator[KerasWeight]:
    for i in (1, 2):
        yield KerasWeight(f"xce_block1_conv{i}", "kernel", f"{to}stem.{3 * i - 3}.weight", CONV)
        yield from _norm(f"xce_block1_conv{i}_bn", f"{to}stem.{3 * i - 2}")
    for block in range(2, 15):
        separable = {2: "entry.0.rep", 3: "entry.1.rep", 4: "block3.body", 13: "block12.body", 14: "exit"}.get(
            block, f"middle.{block - 5}.rep"
        )
        first = 0 if block in (2, 14) else 1  # the other blocks start with a ReLU
        for i in range(3 if 5 <= block <= 12 else 2):
            layer, ours = f"xce_block{block}_sepconv{i + 1}", f"{to}{separable}.{first + 3 * i}"
            yield KerasWeight(layer, "depthwise_kernel", f"{ours}.conv1.weight", DEPTHWISE)
            yield KerasWeight(layer, "pointwise_kernel", f"{ours}.pointwise.weight", CONV)
            yield from _norm(f"{layer}_bn", f"{to}{separable}.{first + 3 * i + 1}")
    skips = (("entry.0.skip", "entry.0.skipbn"), ("entry.1.skip", "entry.1.skipbn"),
             ("block3.skip.0", "block3.skip.1"), ("block12.skip.0", "block12.skip.1"))  # fmt: skip
    for i, (conv, norm) in enumerate(skips, 1):
        yield KerasWeight(f"xce_conv2d_{i}", "kernel", f"{to}{conv}.weight", CONV)
        yield from _norm(f"xce_batch_normalization_{i}", f"{to}{norm}")


def _heads(to: str) -> Iterator[KerasWeight]:
    for i, paper in enumerate(HEADS, 1):
        ours = f"{to}{paper - 1}"
        modules = (f"{ours}.hidden.0", f"{ours}.hidden.2", f"{ours}.hidden.4", f"{ours}.classifier")
        for layer, module in zip((f"dense_{3 * i - 2}", f"dense_{3 * i - 1}", f"MKH_{i}", f"dense_{3 * i}"), modules,
                                 strict=True):  # fmt: skip
            yield KerasWeight(layer, "kernel", f"{module}.weight", DENSE)
            yield KerasWeight(layer, "bias", f"{module}.bias")


AUTOMATIC = ("xce_conv2d", "xce_batch_normalization", "dense")
"""Kinds of layers that the notebook does not name: Keras numbers them, and never restarts the numbers within a
process."""


def rename_automatic(expected: Collection[str], found: Collection[str]) -> dict[str, str]:
    """Map each expected layer name to the layer's name in the file, which may end in a higher number.

    If the network was built twice in one process, ``dense_1 ... dense_15`` are called ``dense_16 ... dense_30``.
    Keras numbers layers in the order in which they are built. So the layers of a kind are matched in the order of their
    numbers, if the file has as many as expected. A name counts once, even if ``expected`` lists it for each of the
    layer's weights. All other names stay unchanged: the caller reports missing weights and wrong shapes.

    >>> rename_automatic(["dense_1", "dense_2", "dense_2", "MKH_1"], ["dense_10", "dense_9", "MKH_1"])
    {'dense_1': 'dense_9', 'dense_2': 'dense_10', 'MKH_1': 'MKH_1'}
    """
    names = {name: name for name in expected}
    for kind in AUTOMATIC:
        ours, theirs = _numbered(kind, names), _numbered(kind, found)
        if not set(ours) <= set(theirs) and len(ours) == len(theirs):
            names.update(zip(ours, theirs, strict=True))
    return names


def _numbered(kind: str, names: Collection[str]) -> list[str]:
    """Return the names of a kind's layers in the order of their numbers; in tf.keras, the first layer has no number."""
    matches = [match for name in names if (match := re.fullmatch(rf"{kind}(?:_(\d{{1,9}}))?", name))]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1] or 0))]


def quoted(name: str) -> str:
    r"""Return a name from an untrusted file in a form that is safe and short enough for a message of one line.

    >>> print(quoted("two\nlines"))
    'two\nlines'
    """
    return repr(name if len(name) <= 80 else name[:77] + "...")
