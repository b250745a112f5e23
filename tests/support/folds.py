"""Write a run of several folds without training: the test makes the network of each fold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvrnet.network import CVRNet
from cvrnet.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.support.networks import small

CLASSES = ["CVP", "NCP", "NOR"]


def reweighted(network: Path | CVRNet, seed: int | None = None) -> Any:
    """Return a network, or that of a run, with random classifiers, so that predictions differ between folds."""
    model: Any = load_checkpoint(network) if isinstance(network, Path) else network
    if seed is not None:
        torch.manual_seed(seed)
    for block in model.head.blocks:
        nn.init.normal_(block.classifier.weight, std=0.5)
    return model


@torch.no_grad()
def small_fold(fold: int) -> CVRNet:
    """Return the small network of a fold, always the same, so that it is traced to ONNX once for all tests.

    As after a training, no two tensors are equal, so trained networks have the same graph.
    """
    model: CVRNet = reweighted(small(("test_resnet",), img_size=64), seed=fold)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are 0, and weights of norms 1
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return model


@torch.no_grad()
def write_folds(run: Path, folder: Path, number: int, make: Callable[[int], nn.Module]) -> Path:
    """Write the networks that `make` gives with seeds 1, 2, ... as fold-1, fold-2, ..., beside a run's two tables."""
    for name in ("run.json", "split.csv"):
        shutil.copy(run / name, folder / name)
    for fold in range(1, number + 1):
        torch.manual_seed(fold)
        save_checkpoint(make(fold), folder / f"fold-{fold}", CLASSES)
    return folder
