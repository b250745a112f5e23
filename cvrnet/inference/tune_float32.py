"""Find a few parts of a network to compute in float32, so that bfloat16 elsewhere hardly changes probabilities."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cvrnet.copies import copy_network
from cvrnet.encoders.fuse_batch_norm import fuse_batch_norm
from cvrnet.inference.head_logits import HeadLogits
from cvrnet.network import CVRNet
from cvrnet.runs.float32_parts import KEY, float32_parts, joined_names, whole_encoders

BOUND = 5e-3  #: largest change of a probability that the default number format may cause, against float32
IMAGES = 64  #: number of images on which the change is measured
MARGIN = 0.5  # share of the bound that the change may reach on these images: other images may change more
_BATCH = 16


class Tuned(NamedTuple):
    """The result of `tune_float32`."""

    parts: list[list[str]]  #: for each encoder, the names of the submodules that stay in float32
    #: Largest change of a probability if the parts listed in each encoder's ``float32_parts`` are in float32.
    before: float
    after: float  #: largest change of a probability if ``parts`` are in float32


def tune_float32(model: CVRNet, images: Tensor) -> Tuned:
    """Find a few parts to compute in float32, so that probabilities change by at most half of `BOUND`.

    The search is greedy. It starts with the parts that are listed in each encoder's ``float32_parts``. If the change
    is above the limit (half of `BOUND`), it adds blocks of the encoders, from the first block on, until the change is
    within the limit. Then it tries each part, the most expensive first, and leaves the part out if the change stays
    within the limit. If more than half of the operations had to be in float32, the whole network is in float32, because
    bfloat16 would save hardly any time.

    Args:
        model: The trained network, on the device on which it will predict; it is not changed.
        images: Normalised images, (N, C, H, W), on that device: about `IMAGES` images that were not used for training.
    """
    network: Any = fuse_batch_norm(copy_network(model).eval()).to(memory_format=torch.channels_last)
    setattr(network, KEY, None)
    exact = _probabilities(network, images, "fp32")

    @functools.cache  # the search measures some lists several times
    def change(*parts: str) -> float:
        setattr(network, KEY, parts)
        return float((_probabilities(network, images, "bf16") - exact).abs().max())

    costs = _costs(network, images[:1])
    # In an encoder without such a list, the search begins with nothing in float32.
    parts = joined_names([getattr(encoder, KEY, None) or () for encoder in network.encoders])
    before = after = change(*parts)
    if after > MARGIN * BOUND:
        blocks = [block for block in _blocks(network) if not any(_overlap(block, part) for part in parts)]
        spent = itertools.accumulate(costs.get(block, 0) for block in blocks)
        half = sum(costs[str(i)] for i in range(len(network.encoders))) / 2
        most = sum(total <= half for total in spent)
        if change(*parts, *blocks[:most]) > MARGIN * BOUND:
            return Tuned(whole_encoders(network), before, 0.0)
        # The smallest number of blocks that suffices; more blocks in float32 hardly ever make the change larger.
        number = bisect.bisect_left(range(most), True, key=lambda n: change(*parts, *blocks[:n]) <= MARGIN * BOUND)
        parts += blocks[:number]
        after = change(*parts)
    for part in sorted(parts, key=lambda name: -costs.get(name, 0)):
        rest = [name for name in parts if name != part]
        if (without := change(*rest)) <= MARGIN * BOUND:
            parts, after = rest, without
    setattr(network, KEY, parts)
    return Tuned(float32_parts(network), before, after)


def _probabilities(network: Any, images: Tensor, precision: str) -> Tensor:
    """Return the mean probabilities over the heads, (N, classes)."""
    heads = HeadLogits(network, precision)
    with torch.inference_mode():
        logits = torch.cat([heads(part)[0] for part in images.split(_BATCH)], 1)
    return (logits.sigmoid() if network.task == "multilabel" else logits.softmax(-1)).mean(0)


def _blocks(network: Any) -> Iterator[str]:
    """Yield the names of the encoders' blocks that have convolutions or dense layers, in the order of definition."""
    for name, module in network.encoders.named_modules():
        layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        if name.count(".") == 3 and layers:
            yield name


def _overlap(one: str, other: str) -> bool:
    """Return whether two submodules (by name) are equal, or one is a part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _costs(network: Any, image: Tensor) -> dict[str, int]:
    """Return the floating-point operations of each submodule of the encoders, for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    start = f"{type(network).__name__}.encoders."
    counts = counter.get_flop_counts()
    return {name.removeprefix(start): sum(by.values()) for name, by in counts.items() if name.startswith(start)}
