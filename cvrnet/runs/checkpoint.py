"""Save and load a trained model in timm's own folder format: config.json and model.safetensors."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import Tensor, nn

from cvrnet.data import Preprocessing
from cvrnet.encoders.fuse_batch_norm import FUSED
from cvrnet.encoders.network_size import limited_size
from cvrnet.errors import UserError
from cvrnet.files import atomic_write, normalize_disk_errors
from cvrnet.folders import find_folder
from cvrnet.formatting import count
from cvrnet.runs.empty_model import can_be_filled, check_tensors, create_empty, fill, find_not_finite
from cvrnet.runs.float32_parts import restore_float32_parts
from cvrnet.runs.hub_download import hint, hub_checkpoints, is_reference
from cvrnet.runs.label_names import check_names, label_names
from cvrnet.runs.layout import CONFIG, WEIGHTS, fold_folders, fold_name, fold_number
from cvrnet.runs.model_config import read_config
from cvrnet.runs.read import read_json

MULTILABEL = "multi_label_classification"  #: "problem_type" in config.json; transformers then applies a sigmoid
_ERRORS = (OSError, RuntimeError, ValueError, ArithmeticError, TypeError, LookupError, AttributeError, AssertionError)


def save_checkpoint(model: nn.Module, folder: str | Path, classes: Sequence[str] | Mapping[int, str]) -> None:
    """Save a timm model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` restores it bit for bit.

    The folder is made if missing. The files hold the weights, the architecture and its arguments, the class names and
    the preprocessing. Each file is written atomically. ``classes`` are names in the order of the logits, or a
    dictionary from a class's number to its name.

    Raises:
        ValueError: The number of names is not the number of classes, or `check_names` refuses the names.
        UserError: The batch norm is folded (see `fuse_batch_norm`), or weights, mean or std are not finite.
    """
    if len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} class names for a model of {model.num_classes} classes")
    if getattr(model, FUSED, False):
        raise UserError(
            "the model cannot be saved: its batch norm is folded into the convolutions for prediction; "
            "expected the model as `load_checkpoint` returns it"
        )
    if name := find_not_finite(model):
        raise UserError(f"the model cannot be saved: {name} holds NaN or infinity")
    Preprocessing.from_model(model)  # raises if the checkpoint could not be loaded again
    count: Any = model.num_classes
    check_names(classes, count)
    names = label_names(classes, count)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def make_contiguous(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
        state.update({name: tensor.contiguous() for name, tensor in state.items()})

    contiguous = model.register_state_dict_post_hook(make_contiguous)  # safetensors stores no channels_last tensors
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside,
            normalize_disk_errors(folder / WEIGHTS),
        ):
            further = {"problem_type": MULTILABEL} if checkpoint_task(model) == "multilabel" else {}
            save_for_hf(model, aside, model_config={"label_names": names, **further}, safe_serialization=True)
            _remove_num_classes(Path(aside) / CONFIG)
            shutil.copymode(
                Path(aside) / CONFIG, Path(aside) / WEIGHTS
            )  # safetensors makes the file private to the user
            for name in (WEIGHTS, CONFIG):
                with atomic_write(folder / name) as temporary:
                    (Path(aside) / name).replace(temporary)
    finally:
        contiguous.remove()


def _remove_num_classes(path: Path) -> None:
    """Remove ``num_classes`` from the arguments in config.json, because transformers adds the top-level value."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_args", {}).pop("num_classes", None) is not None:
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def load_checkpoint(folder: str | Path, **kwargs: Any) -> nn.Module:
    """Load a model that :func:`save_checkpoint` saved, in evaluation mode, from its config.json and model.safetensors.

    Nothing is downloaded. The folder may be from an untrusted source. config.json is validated first. Then the network
    is created without memory (on PyTorch's meta device) and filled from model.safetensors: no random weights are made,
    and the weights are never twice in memory. The network may have at most two billion parameters; the environment
    variable CVRNET_MAX_PARAMETERS sets another limit. model.safetensors must have exactly the tensors of the network,
    and only finite values.

    ``kwargs`` are arguments of ``timm.create_model``, such as another ``num_classes``. If there are ``kwargs``, or the
    network cannot be created without memory, timm creates the model, adapts the weights and loads them.

    Raises:
        UserError: The folder has no checkpoint, or the checkpoint is damaged or refused.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained model: it has no {name}")
        with open(folder / name, "rb"):  # raises if reading is not allowed; safetensors would report a missing file
            pass
    try:
        config = read_config(folder / CONFIG)
        model = create_empty(folder)
        if model is not None:
            Preprocessing.from_model(model)
            check_tensors(model, folder / WEIGHTS)
        if model is not None and not kwargs and can_be_filled(model):
            model = fill(model, folder / WEIGHTS)
        else:
            with limited_size():
                model = timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs)
        if name := find_not_finite(model):
            raise ValueError(f"{name} in {WEIGHTS} holds NaN or infinity")
        restore_float32_parts(model, config)
        return model.eval()
    except (SafetensorError, *_ERRORS) as error:  # this includes UserError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {reason}") from error


def checkpoint_classes(model: nn.Module) -> list[str]:
    """Return the class names in a model's ``pretrained_cfg``, in the order of its logits.

    If the number of names is not the number of classes (the names may be from an earlier task), the classes are named
    ``class_0`` and so on.

    Raises:
        UserError: The model has fewer than two classes or, for findings, no class.
    """
    cfg: Any = model.pretrained_cfg
    # A network from outside timm may lack ``num_classes``. Then the number comes from its cfg, and each prediction
    # checks it.
    number: Any = getattr(model, "num_classes", len(cfg.get("label_names") or ()) or cfg.get("num_classes", 0))
    least = 1 if checkpoint_task(model) == "multilabel" else 2
    if number < least:
        classes = count(number, "class", "classes")
        raise UserError(f"{cfg.get('architecture')} has {classes}; expected at least {least} (a classifier)")
    return label_names(cfg.get("label_names"), number)


def checkpoint_task(model: nn.Module) -> str:
    """Return ``multilabel`` for a model of findings (see `CVRNet`), and ``multiclass`` for every other model."""
    return str(getattr(model, "task", "multiclass"))


def checkpoint_unit(model: nn.Module) -> str:
    """Return what one prediction is about: an ``image``, or all images of a ``study`` or ``patient`` (see `CVRNet`)."""
    return str(getattr(model, "unit", "image"))


def stored_unit(folder: Path) -> str:
    """Return the `checkpoint_unit` of the model in a checkpoint folder, without loading the model."""
    if not (folder / CONFIG).is_file():
        return "image"
    arguments = read_json(folder / CONFIG).get("model_args")
    return str(arguments.get("unit", "image")) if isinstance(arguments, Mapping) else "image"


def refuse_bags(unit: str, what: str) -> None:
    """Raise UserError unless ``unit`` is ``image``, because ``what`` (such as a command) takes only single images."""
    if unit != "image":
        raise UserError(
            f"the model predicts all images of a {unit} together; {what} takes only models of single images"
        )


def shared_settings(models: Sequence[nn.Module]) -> tuple[list[str], Preprocessing]:
    """Return the class names and the preprocessing of an ensemble's models.

    Raises:
        UserError: The models differ in classes or preprocessing.
    """
    classes, preprocessing = checkpoint_classes(models[0]), Preprocessing.from_model(models[0])
    for model in models[1:]:
        same = checkpoint_classes(model) == classes and checkpoint_task(model) == checkpoint_task(models[0])
        if not same or Preprocessing.from_model(model) != preprocessing:
            raise UserError("the folds differ in classes or preprocessing; expected models of one run")
    return classes, preprocessing


def find_checkpoints(model: str | Path, folds: Sequence[int] = ()) -> list[Path]:
    """Return the checkpoint folders that a MODEL argument names: one fold's folder, or all or some folds of a run.

    MODEL is a folder, timm's ``local-dir:FOLDER``, or ``hf-hub:user/repo[@revision]``. ``folds`` are the numbers of the
    folds; an empty sequence means all folds.

    Raises:
        UserError: MODEL does not exist, is not a trained model, or lacks one of the folds.
    """
    if is_reference(model):
        return hub_checkpoints(str(model), folds)
    folder = find_folder(str(model).removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UserError(f"{model}: no such folder; expected the folder of a run, a fold or a model{hint(model)}")
    found: dict[int | None, Path] = dict(fold_folders(folder).items())
    if (folder / CONFIG).is_file():
        found = {fold_number(folder.name): folder}
    if not found:
        raise UserError(f"{folder} is not a trained model: it has neither {CONFIG} nor {fold_name('*')}/{CONFIG}")
    if missing := [str(fold) for fold in folds if fold not in found]:
        there = ", ".join(str(number) for number in found if number)
        expected = f"expected some of {there}" if there else "the folder holds a single model, so leave the fold out"
        raise UserError(f"{folder} has no fold {', '.join(missing)}; {expected}")
    return [found[fold] for fold in dict.fromkeys(folds or found)]
