"""What a MODEL argument means: one resolver for every command."""

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
    """Load the networks of a MODEL argument for prediction: batch norm is folded into the convolutions.

    Args:
        model: A run folder (all its folds), a fold folder, ``local-dir:FOLDER``, ``hf-hub:user/repo[@revision]``, or an
            ONNX file that ``cvrnet export`` wrote.
        folds: Of a run, only these.
        device: For an ONNX file: where its engine runs.
        dtype: For an ONNX file: its engine's number format.

    Raises:
        UserError: There is no such model or fold.
    """
    name = str(model)
    if name.lower().endswith(".onnx"):
        from cvrnet.onnx import load_onnx

        if folds:
            raise UserError(f"{name} is one model; folds can be chosen of a run only")
        return [load_onnx(name, device, dtype)]
    return [fuse_batch_norm(load_checkpoint(folder)) for folder in find_checkpoints(model, folds)]
