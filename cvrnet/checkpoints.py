"""One trained model on disk, in timm's own folder format: config.json and model.safetensors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import nn

from cvrnet.errors import UserError
from cvrnet.files import atomic_write

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_checkpoint(model: nn.Module, folder: str | Path, classes: Sequence[str]) -> None:
    """Save a model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives it back, bit for bit.

    Weights, architecture, arguments, class names and preprocessing are all in the folder; each file appears whole.

    Args:
        model: A model that ``timm.create_model`` made.
        folder: Where to; made if missing.
        classes: Class names in the order of the logits.

    Raises:
        ValueError: The number of names is not the number of classes.
    """
    if len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} class names for a model of {model.num_classes} classes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = model.register_state_dict_post_hook(_make_contiguous)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside:
            save_for_hf(model, aside, model_config={"label_names": list(classes)}, safe_serialization=True)
            shutil.copymode(Path(aside) / CONFIG, Path(aside) / WEIGHTS)  # safetensors makes it private to the user
            for name in (WEIGHTS, CONFIG):
                with atomic_write(folder / name) as temporary:
                    (Path(aside) / name).replace(temporary)
    finally:
        contiguous.remove()


def _make_contiguous(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """safetensors stores no channels_last tensors."""
    state_dict.update({name: tensor.contiguous() for name, tensor in state_dict.items()})


def load_checkpoint(folder: str | Path, **kwargs: Any) -> nn.Module:
    """Load a model that :func:`save_checkpoint` saved, in evaluation mode; nothing else is read or downloaded.

    Args:
        folder: Where from.
        **kwargs: For ``timm.create_model``.

    Raises:
        UserError: The folder holds no such checkpoint.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained model: it has no {name}")
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {reason}") from error


def checkpoint_classes(model: nn.Module) -> list[str]:
    """Class names that were saved with a model, in the order of its logits; ``class_0`` and so on if none were."""
    cfg: Any = model.pretrained_cfg
    names = cfg.get("label_names")
    if not names:
        return [f"class_{i}" for i in range(cfg["num_classes"])]
    return [str(name) for name in names]


def find_checkpoints(model: str | Path) -> list[Path]:
    """The checkpoint folders that a MODEL argument means: a fold folder itself, or all folds of a run folder.

    Args:
        model: A folder, optionally written as timm does (``local-dir:FOLDER``).

    Raises:
        UserError: There is none.
    """
    folder = Path(str(model).removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a run, a fold, or local-dir:FOLDER")
    if (folder / CONFIG).is_file():
        return [folder]
    folds = sorted(
        (path.parent for path in folder.glob(f"fold-*/{CONFIG}")), key=lambda path: (len(path.name), path.name)
    )
    if not folds:
        raise UserError(f"{folder} is not a trained model: it has neither {CONFIG} nor fold-*/{CONFIG}")
    return folds
