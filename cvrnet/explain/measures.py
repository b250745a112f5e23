"""Compare a Grad-CAM map with masks, with chance, and with the map of a network with random weights (extra ``train``).

The comparison with random weights is the sanity check of Adebayo et al. 2018: a map that does not change with the
weights explains nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from cvrnet.copies import copy_network

MEASURES = ("energy", "pointing", "iou")
HEADS, ALL = "random heads", "random network"
STAGES = (HEADS, ALL)
"""Stages of randomisation. In the first, only the layers after the feature maps get random weights; in the second, the
encoders as well."""


def localisation(cam: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float = 0.6) -> dict[str, float]:
    r"""Return how much of a map M lies inside a mask B.

    The chance level of every measure is the mask's share of the image.

    - ``share``: :math:`|B| / HW`, the mask's share of the image. This is the energy of a uniform map, the probability
      that a random point lies in the mask, and the IoU of a map that marks the whole image.
    - ``energy``: :math:`\sum_B M / \sum M`, the share of the map's sum inside the mask (Wang et al. 2020).
    - ``pointing``: whether the map's maximum lies in the mask (the pointing game of Zhang et al. 2016, without their
      tolerance of 15 pixels); if there are several maxima, the share of the maxima in the mask.
    - ``iou``: intersection over union of the mask and the part of the map at or above the threshold.

    The map (H, W) must not be negative or all zero, and the mask (H, W) must not be empty.

    >>> half = np.array([[True, False]])
    >>> localisation(np.array([[1.0, 0.25]], np.float32), half)
    {'share': 0.5, 'energy': 0.8, 'pointing': 1.0, 'iou': 1.0}
    """
    shown = cam >= threshold
    return {
        "share": float(mask.mean()),
        "energy": float(cam[mask].sum(dtype=np.float64) / cam.sum(dtype=np.float64)),
        "pointing": float(mask[cam == cam.max()].mean()),
        "iou": float((shown & mask).sum() / (shown | mask).sum()),
    }


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation of two maps (h, w) on one grid; NaN if a map is flat.

    >>> grid = np.arange(4, dtype=np.float32).reshape(2, 2)
    >>> similarity(grid, grid**2), similarity(grid, -grid)
    (1.0, -1.0)
    """
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one.ravel(), other.ravel()).statistic)


def randomise(model: nn.Module, stage: str, seed: int = 0) -> nn.Module:
    """Copy a model to the CPU, and give random weights to a part of the copy or to all of it.

    Convolutions and dense layers get random weights as in He et al. 2015, and a bias of zero. Other layers are reset by
    their method ``reset_parameters``. If a module has no such method, its own parameters (such as the layer scale
    of a ConvNeXt block) are shuffled. A reset batch norm is the identity. So for one seed, the result does not depend
    on whether batch norms are folded into the convolutions.

    The model is a CVR-Net or another timm classifier; ``stage`` is one of `STAGES`. PyTorch's global random generator
    keeps its state.
    """
    random = copy_network(model).cpu()  # on other devices, a seed gives other numbers
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for top in [random] if stage == ALL else _after_the_maps(random):
            for module in top.modules():
                _initialise(module)
    return random


def _initialise(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None)
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(reset):
        reset()
    else:
        for parameter in module.parameters(recurse=False):
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))


def _after_the_maps(model: Any) -> list[nn.Module]:
    if hasattr(model, "forward_maps"):
        return [model.head]
    classifier = model.get_classifier()
    return list(classifier) if isinstance(classifier, tuple) else [classifier]
