"""What a MODEL argument means: one resolver for every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cvrnet.checkpoints import find_checkpoints, load_checkpoint
from cvrnet.errors import UserError
from cvrnet.hub.references import hub_checkpoints, is_reference
from cvrnet.inference.folding import fold_batch_norm


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
    folders = hub_checkpoints(name, folds) if is_reference(name) else choose_folds(find_checkpoints(model), folds)
    return [fold_batch_norm(load_checkpoint(folder)) for folder in folders]


def choose_folds(folders: Sequence[Path], folds: Sequence[int]) -> list[Path]:
    """The folders ``fold-k`` of the folds that are wanted, in their order; all where none is named.

    Raises:
        UserError: There is no such fold.
    """
    if not folds:
        return list(folders)
    named = {folder.name: folder for folder in folders if folder.name.startswith("fold-")}
    if missing := [str(fold) for fold in folds if f"fold-{fold}" not in named]:
        there = ", ".join(name.removeprefix("fold-") for name in named) or "none: it is one model"
        raise UserError(f"{folders[0].parent} has no fold {', '.join(missing)}; expected some of {there}")
    return [named[f"fold-{fold}"] for fold in dict.fromkeys(folds)]
