"""Load what a MODEL argument names, for every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cvrnet.errors import UserError
from cvrnet.inference.fuse_batch_norm import fuse_batch_norm
from cvrnet.runs.checkpoint import find_checkpoints, load_checkpoint


def load_models(
    model: str | Path, folds: Sequence[int] = (), device: str = "auto", dtype: str = "auto"
) -> list[nn.Module]:
    """Load the networks of a MODEL argument for prediction, with batch norm folded into the convolutions.

    See :meth:`cvrnet.Predictor.from_pretrained`. Device and dtype concern ONNX files, whose engine needs them now.

    Raises:
        UserError: The model or fold does not exist.
    """
    name = str(model)
    if name.lower().endswith(".onnx"):
        from cvrnet.onnx import load_onnx

        if folds:
            raise UserError(f"{name} is one model; only the folds of a run can be chosen")
        return [load_onnx(name, device, dtype)]
    return [fuse_batch_norm(load_checkpoint(folder)) for folder in find_checkpoints(model, folds)]
