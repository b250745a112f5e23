"""Count our network's parameters as Keras does, to compare them with a paper's table and the authors' notebook.

The table is Table 2 of the first CVR-Net paper (arXiv 2007.11993).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from cvrnet.copies import copy_network
from cvrnet.network import CVRNet


def keras_parameter_counts(model: CVRNet) -> dict[str, int]:
    """Return parameter counts as in Keras, for each head (all parameters from image to softmax) and the whole model.

    Keras also counts the moving mean and variance of each batch norm, and the biases of ResNet-50's 53 convolutions.
    (timm's ResNet has no such biases, because batch norm makes them redundant.)

    In Table 2 of the first paper (arXiv 2007.11993), P1 to P5 are the counts of the five heads. The table is for three
    classes and mixes two networks: P1 and P3 are counted for RGB images; P2, P4, P5 and the total are counted for
    images of one channel.

    ``model`` is ``cvrnet`` or ``cvrnet_keras``, with classifiers; it is not changed. The counts are keyed "P1" to "P5"
    and "total".

    >>> import timm
    >>> rgb, grey = (timm.create_model("cvrnet", num_classes=3, in_chans=c, device="meta") for c in (3, 1))
    >>> rgb, grey = keras_parameter_counts(rgb), keras_parameter_counts(grey)
    >>> rgb["P1"], grey["P2"], rgb["P3"], grey["P4"], grey["P5"], grey["total"]
    (1796867, 9181827, 46620971, 1371131, 15954283, 48596087)
    """
    shapes = copy_network(model).to("meta").requires_grad_()  # shapes are enough: nothing is computed
    resnet = set(shapes.encoders[0].parameters())
    sizes: dict[nn.Parameter, int] = {}
    for module in shapes.modules():
        for parameter in module.parameters(recurse=False):
            sizes[parameter] = parameter.numel()
            if isinstance(module, nn.BatchNorm2d):
                sizes[parameter] *= 2  # gamma with moving mean, beta with moving variance
            elif parameter in resnet:
                sizes[parameter] += parameter.shape[0]  # the bias
    counts = {}
    with torch.enable_grad():
        for i, logits in enumerate(shapes.branch_logits(torch.empty(1, model.in_chans, 64, 64, device="meta")), 1):
            counts[f"P{i}"] = sum(sizes[parameter] for parameter in _parameters_of(logits))
    return {**counts, "total": sum(sizes.values())}


def _parameters_of(logits: torch.Tensor) -> Iterator[nn.Parameter]:
    """Yield the parameters that the logits depend on: the leaves of autograd's graph."""
    left: list[Any] = [logits.grad_fn]
    seen = {*left}
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            yield node.variable
        new = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= new
        left += new
