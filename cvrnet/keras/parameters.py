"""Parameters as Keras counts them: v1's Table 2 and the notebook's ``count_params()``, from our network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from cvrnet.cvrnet import CVRNet


def keras_parameter_counts(model: CVRNet) -> dict[str, int]:
    """Parameters of each head's own network, image to softmax, and of the whole, as Keras counts them.

    Keras counts what timm does not: the moving mean and variance of each batch norm, and the biases of ResNet-50's 53
    convolutions, which batch norm makes redundant and which neither timm's ResNet nor ours has. What belongs to a
    head is what its output depends on, found in the graph that autograd records.

    v1's Table 2 is for three classes and mixes two builds: P1 and P3 count RGB images; P2, P4, P5 and the total
    count one-channel images.

    Args:
        model: ``cvrnet`` or ``cvrnet_keras``, with classifiers; it is not changed.

    Returns:
        Counts by "P1" to "P5", and "total".

    >>> import timm
    >>> rgb, grey = (timm.create_model("cvrnet", num_classes=3, in_chans=c, device="meta") for c in (3, 1))
    >>> rgb, grey = keras_parameter_counts(rgb), keras_parameter_counts(grey)
    >>> rgb["P1"], grey["P2"], rgb["P3"], grey["P4"], grey["P5"], grey["total"]
    (1796867, 9181827, 46620971, 1371131, 15954283, 48596087)
    """
    shapes = copy.deepcopy(model).to("meta")  # shapes are enough: nothing is computed
    owners = {p: module for module in shapes.modules() for p in module.parameters(recurse=False)}
    resnet = set(shapes.encoders[0].parameters())

    def count(parameter: nn.Parameter) -> int:
        total = parameter.numel()
        if isinstance(owners[parameter], nn.BatchNorm2d):
            total *= 2  # gamma with moving mean, beta with moving variance
        elif parameter in resnet:
            total += parameter.shape[0]  # the bias
        return total

    with torch.enable_grad():
        heads = shapes.requires_grad_().branch_logits(torch.empty(1, model.in_chans, 64, 64, device="meta"))
    counts = {f"P{i}": sum(map(count, _parameters_behind(logits))) for i, logits in enumerate(heads, 1)}
    return {**counts, "total": sum(map(count, owners))}


def _parameters_behind(output: Tensor) -> list[nn.Parameter]:
    """The parameters that a tensor was computed from."""
    seen: set[Any] = set()
    waiting: list[Any] = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return [node.variable for node in seen if hasattr(node, "variable")]
