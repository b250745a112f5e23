"""One trained model on disk, in timm's own folder format: config.json and model.safetensors."""

from __future__ import annotations

import itertools
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

from cvrnet.errors import UserError
from cvrnet.files import atomic_write, normalize_disk_errors
from cvrnet.runs.hub_download import hub_checkpoints, is_reference
from cvrnet.runs.layout import CONFIG, WEIGHTS

_LARGEST_SIZE, _LARGEST_IMAGE, _LARGEST_CONFIG = 65536, 8192, 2**20
"""What a config.json may ask for: numbers among the model's arguments, pixels, bytes of the file itself."""


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
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside,
            normalize_disk_errors(folder / WEIGHTS),
        ):
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

    The network is laid out without memory (PyTorch's meta device) and filled from the file, so that no random weights
    are made, and no weights are twice in memory. The file's tensors must be exactly the network's. With arguments, and
    for networks that cannot be laid out so, timm creates the model, adapts the weights and loads them.

    Args:
        folder: Where from.
        **kwargs: For ``timm.create_model``, such as another ``num_classes``.

    Raises:
        UserError: The folder holds no such checkpoint.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a trained model: it has no {name}")
        with open(folder / name, "rb"):  # where that is not allowed, safetensors would say that there is no such file
            pass
    if absurd := validate_config(folder / CONFIG):
        raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {absurd}")
    try:
        model = None if kwargs else _lay_out(folder)
        if model is None:
            return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()
        if misfit := _misfit(model, folder / WEIGHTS):
            raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {misfit}")
        return _fill(model, folder / WEIGHTS).eval()
    except UserError:
        raise
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds a checkpoint that cannot be loaded: {reason}") from error


def validate_config(path: Path) -> str:
    """What no network has, in a config.json from elsewhere, before anything is made of that size; "" if nothing is."""
    if path.stat().st_size > _LARGEST_CONFIG:
        return f"{path.name} has {path.stat().st_size:,} bytes"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config.get("model_args", {}), Mapping):
            return f"{path.name} is no description of a model"
        labels = config.get("label_names", config.get("pretrained_cfg", config).get("label_names")) or []
        if not isinstance(labels, list) or len(labels) not in (0, config.get("num_classes", len(labels))):
            return f"{path.name} names other classes than the model has"
        preprocessing = config.get("pretrained_cfg", config)
        image = list(_numbers(preprocessing.get("input_size", (3, 224, 224))))
        mean, std = ([*_numbers(preprocessing.get(name, 0.5))] for name in ("mean", "std"))
        sizes = list(_numbers([config.get("num_classes", 0), config.get("model_args", {})]))
    except (ValueError, AttributeError, RecursionError):
        return f"{path.name} is no description of a model"
    if sizes := [size for size in sizes if size > _LARGEST_SIZE]:
        return f"{path.name} asks for a size of {sizes[0]:g}; expected at most {_LARGEST_SIZE:,}"
    if len(image) != 3 or not all(0 < size <= _LARGEST_IMAGE for size in image):
        return f"{path.name} asks for images of {image[:3]}; expected channels, height, width up to {_LARGEST_IMAGE:,}"
    if not mean or not std or min(std) <= 0:
        return f"{path.name} asks for pixels of mean {mean} and standard deviation {std}"
    return ""


def _numbers(value: object) -> Iterator[float]:
    """The numbers in a JSON value."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(item)


def _lay_out(folder: Path) -> nn.Module | None:
    """The network that config.json describes, on the meta device; None if it cannot be filled from a file alone."""
    try:
        model = timm.create_model(f"local-dir:{folder}", device="meta")
    except UserError:
        raise
    except (TypeError, RuntimeError):  # it takes no device, or calculates with its random weights
        return None
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    if len({id(tensor) for _, tensor in tensors}) < len(tensors):
        return None  # shared weights, which would come apart
    saved = model.state_dict().keys()
    for prefix, module in model.named_modules():
        computed = [name for name, _ in module.named_buffers(prefix, recurse=False) if name not in saved]
        loose = any(isinstance(value, Tensor) for value in vars(module).values())
        if loose or (computed and not hasattr(module, "init_non_persistent_buffers")):
            return None
    return model


def _misfit(model: nn.Module, path: Path) -> str:
    """How the file's tensors differ from the model's; "" where they do not."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)

    def first(names: Sequence[str]) -> str:
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")

    if missing := [name for name in expected if name not in found]:
        return f"{path.name} lacks {first(missing)}"
    if surplus := [name for name in found if name not in expected]:
        return f"{path.name} holds {first(surplus)}, which {architecture} has not"
    for name, shape in expected.items():
        if found[name] != shape:
            return f"{name} has the shape {found[name]} in {path.name}; {architecture} expects {shape}"
    return ""


def _fill(model: nn.Module, path: Path) -> nn.Module:
    """Give a meta model memory, and the values in the file: a few megabytes at a time, so that none is there twice."""
    model.to_empty(device="cpu")
    module: Any
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # timm's protocol for what no checkpoint holds
    state = model.state_dict()
    with torch.no_grad():
        for names in _portions(state):
            with safe_open(path, "pt") as file:  # maps the file; what was read leaves memory when it closes
                for name in names:
                    state[name].copy_(file.get_tensor(name))
    return model


def _portions(state: Mapping[str, Tensor], size: int = 16 * 2**20) -> Iterator[list[str]]:
    """The tensors' names, in portions of about so many bytes."""
    ends = itertools.accumulate(tensor.nbytes for tensor in state.values())
    for _, portion in itertools.groupby(zip(state, ends, strict=True), key=lambda item: item[1] // size):
        yield [name for name, _ in portion]


def checkpoint_classes(model: nn.Module) -> list[str]:
    """Class names that were saved with a model, in the order of its logits; ``class_0`` and so on if none were."""
    cfg: Any = model.pretrained_cfg
    names = cfg.get("label_names")
    if not names:
        return [f"class_{i}" for i in range(cfg["num_classes"])]
    return [str(name) for name in names]


def find_checkpoints(model: str | Path, folds: Sequence[int] = ()) -> list[Path]:
    """The checkpoint folders that a MODEL argument means: a fold folder itself, or the folds of a run.

    Args:
        model: A folder, optionally written as timm does (``local-dir:FOLDER``), or ``hf-hub:user/repo[@revision]``.
        folds: Of a run, only these; all by default.

    Raises:
        UserError: There is none.
    """
    if is_reference(model):
        return hub_checkpoints(str(model), folds)
    folder = Path(str(model).removeprefix("local-dir:"))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a run, a fold, or local-dir:FOLDER")
    if (folder / CONFIG).is_file():
        return _choose_folds([folder], folds)
    found = sorted(
        (path.parent for path in folder.glob(f"fold-*/{CONFIG}")), key=lambda path: (len(path.name), path.name)
    )
    if not found:
        raise UserError(f"{folder} is not a trained model: it has neither {CONFIG} nor fold-*/{CONFIG}")
    return _choose_folds(found, folds)


def _choose_folds(folders: Sequence[Path], folds: Sequence[int]) -> list[Path]:
    """The folders ``fold-k`` of the folds that are wanted, in their order; all where none is named."""
    if not folds:
        return list(folders)
    named = {folder.name: folder for folder in folders if folder.name.startswith("fold-")}
    if missing := [str(fold) for fold in folds if f"fold-{fold}" not in named]:
        there = ", ".join(name.removeprefix("fold-") for name in named) or "none: it is one model"
        raise UserError(f"{folders[0].parent} has no fold {', '.join(missing)}; expected some of {there}")
    return [named[f"fold-{fold}"] for fold in dict.fromkeys(folds)]
