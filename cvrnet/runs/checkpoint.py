"""One trained model on disk, in timm's own folder format: config.json and model.safetensors."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models import save_for_hf
from torch import Tensor, nn

from cvrnet.data import Preprocessing
from cvrnet.errors import UserError
from cvrnet.files import atomic_write, normalize_disk_errors
from cvrnet.folders import find_folder
from cvrnet.runs.hub_download import hint, hub_checkpoints, is_reference
from cvrnet.runs.layout import CONFIG, WEIGHTS, fold_folders, fold_name, fold_number

_LARGEST_SIZE, _LARGEST_IMAGE, _LARGEST_CONFIG = 65536, 8192, 2**20
"""Largest values of a config.json: numbers among the model's arguments, pixels, bytes of the file itself."""
_PORTION = 16  # tensors
_ERRORS = (OSError, RuntimeError, ValueError, ArithmeticError, TypeError, LookupError, AttributeError, AssertionError)


def save_checkpoint(model: nn.Module, folder: str | Path, classes: Sequence[str]) -> None:
    """Save a timm model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` restores it bit for bit.

    Weights, architecture, arguments, class names (in the order of the logits) and preprocessing are all in the folder,
    which is made if missing; each file is written atomically.

    Raises:
        ValueError: The number of names is not the number of classes.
    """
    if len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} class names for a model of {model.num_classes} classes")
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
            save_for_hf(model, aside, model_config={"label_names": list(classes)}, safe_serialization=True)
            _remove_num_classes(Path(aside) / CONFIG)
            shutil.copymode(Path(aside) / CONFIG, Path(aside) / WEIGHTS)  # safetensors makes it private to the user
            for name in (WEIGHTS, CONFIG):
                with atomic_write(folder / name) as temporary:
                    (Path(aside) / name).replace(temporary)
    finally:
        contiguous.remove()


def _remove_num_classes(path: Path) -> None:
    """Remove ``num_classes`` from a config.json's arguments: it is beside them too, and transformers passes it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_args", {}).pop("num_classes", None) is not None:
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def load_checkpoint(folder: str | Path, **kwargs: Any) -> nn.Module:
    """Load a model that :func:`save_checkpoint` saved, in evaluation mode; nothing else is read or downloaded.

    The network is created without memory (on PyTorch's meta device) and filled from the file, so that no random weights
    are made, and no weights are twice in memory. The file's tensors must be exactly the network's. With arguments, and
    for networks that need memory to be created, timm creates the model, adapts the weights and loads them. Arguments
    are those of ``timm.create_model``, such as another ``num_classes``.

    Raises:
        UserError: The folder holds no such checkpoint.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained model: it has no {name}")
        with open(folder / name, "rb"):  # raises where reading is not allowed; safetensors would report a missing file
            pass
    try:
        validate_config(folder / CONFIG)
        model = None if kwargs else _create_empty(folder)
        if model is None:
            return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
        _check_tensors(model, folder / WEIGHTS)
        return _fill(model, folder / WEIGHTS).eval()
    except UserError:
        raise
    except (SafetensorError, *_ERRORS) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {reason}") from error


def validate_config(path: Path) -> None:
    """Raise a ValueError if an untrusted config.json fits no real network, before memory is allocated for it."""
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {_LARGEST_CONFIG:,}")
    config = json.loads(path.read_text(encoding="utf-8"))
    preprocessing, arguments = config.get("pretrained_cfg", config), config.get("model_args", {})
    labels = config.get("label_names", preprocessing.get("label_names")) or []
    if not isinstance(arguments, Mapping) or not isinstance(labels, list):
        raise ValueError(f"{path.name} does not describe a model")
    if len(labels) not in (0, config.get("num_classes", len(labels))):
        raise ValueError(f"{path.name} names other classes than the model has")
    for size in _numbers([config.get("num_classes", 0), arguments]):
        if size > _LARGEST_SIZE:
            raise ValueError(f"{path.name} asks for a size of {size:g}; expected at most {_LARGEST_SIZE:,}")
    image = list(_numbers(preprocessing.get("input_size", (3, 224, 224))))
    if len(image) != 3 or not all(0 < size <= _LARGEST_IMAGE for size in image):
        raise ValueError(f"{path.name} asks for images of {image[:3]}; expected 3 numbers up to {_LARGEST_IMAGE:,}")
    mean, std = (list(_numbers(preprocessing.get(name, 0.5))) for name in ("mean", "std"))
    if not mean or not std or min(std) <= 0:
        raise ValueError(f"{path.name} asks for pixels of mean {mean} and standard deviation {std}")


def _numbers(value: object) -> Iterator[float]:
    """The numbers in a JSON value."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)


def _create_empty(folder: Path) -> nn.Module | None:
    """The network that config.json describes, on the meta device; None if it cannot be filled from a file alone."""
    try:
        model = timm.create_model(f"local-dir:{folder}", device="meta")
    except UserError:
        raise
    except (TypeError, RuntimeError):  # the model accepts no device, or computes with its random weights
        return None
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in tensors}) < len(tensors):
        return None  # shared weights, which loading would turn into separate ones
    saved = model.state_dict().keys()
    for prefix, module in model.named_modules():
        computed = [name for name, _ in module.named_buffers(prefix, recurse=False) if name not in saved]
        loose = any(isinstance(value, Tensor) for value in vars(module).values())
        if loose or (computed and not hasattr(module, "init_non_persistent_buffers")):
            return None
    return model


def _check_tensors(model: nn.Module, path: Path) -> None:
    """Raise a ValueError if the file's tensors have other names or shapes than the model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)
    for name in {**expected, **found}:
        if name not in found:
            raise ValueError(f"{path.name} lacks {name}")
        if name not in expected:
            raise ValueError(f"{path.name} holds {name}, which {architecture} does not have")
        if found[name] != expected[name]:
            raise ValueError(
                f"{name} has the shape {found[name]} in {path.name}; {architecture} expects {expected[name]}"
            )


def _fill(model: nn.Module, path: Path) -> nn.Module:
    """Allocate memory for a model on the meta device, and fill it with the values in the file."""
    model.to_empty(device="cpu")
    module: Any
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # timm's protocol for what no checkpoint holds
    state = model.state_dict()
    names = list(state)
    with torch.no_grad():
        for start in range(0, len(names), _PORTION):
            # The file is mapped into memory. Closing it releases what was read, so no weights are twice in memory.
            with safe_open(path, "pt") as file:
                for name in names[start : start + _PORTION]:
                    state[name].copy_(file.get_tensor(name))
    return model


def checkpoint_classes(model: nn.Module) -> list[str]:
    """Class names that were saved with a model, in the order of its logits; ``class_0`` and so on if none were."""
    cfg: Any = model.pretrained_cfg
    return [str(name) for name in cfg.get("label_names") or (f"class_{i}" for i in range(cfg["num_classes"]))]


def shared_settings(models: Sequence[nn.Module]) -> tuple[list[str], Preprocessing]:
    """The class names and the preprocessing of models that answer together; refuses models that differ in them."""
    classes, preprocessing = checkpoint_classes(models[0]), Preprocessing.from_model(models[0])
    for model in models[1:]:
        if checkpoint_classes(model) != classes or Preprocessing.from_model(model) != preprocessing:
            raise UserError("the folds differ in classes or preprocessing; expected models of one run")
    return classes, preprocessing


def find_checkpoints(model: str | Path, folds: Sequence[int] = ()) -> list[Path]:
    """The checkpoint folders that a MODEL argument means: a fold folder itself, or (some) folds of a run.

    MODEL is a folder, optionally written as timm does (``local-dir:FOLDER``), or ``hf-hub:user/repo[@revision]``.

    Raises:
        UserError: There is no such checkpoint.
    """
    if is_reference(model):
        return hub_checkpoints(str(model), folds)
    folder = find_folder(str(model).removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UserError(f"{model}: no such folder; expected a run, a fold, or local-dir:FOLDER{hint(model)}")
    found: dict[int | None, Path] = dict(fold_folders(folder).items())
    if (folder / CONFIG).is_file():
        found = {fold_number(folder.name): folder}
    if not found:
        raise UserError(f"{folder} is not a trained model: it has neither {CONFIG} nor {fold_name('*')}/{CONFIG}")
    if missing := [str(fold) for fold in folds if fold not in found]:
        there = ", ".join(str(number) for number in found if number) or "none: it is one model"
        raise UserError(f"{folder} has no fold {', '.join(missing)}; expected some of {there}")
    return [found[fold] for fold in dict.fromkeys(folds or found)]
