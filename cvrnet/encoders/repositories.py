"""Encoders from timm's own folders: ``hf-hub:user/repo[@revision]`` and ``local-dir:FOLDER``.

Any repository that timm wrote (``push_to_hf_hub``, ``save_for_hf``) is an encoder: its config.json gives the
architecture and its arguments, and the normalisation of its images. It may come from anywhere, so only these values are
taken from it, after a check, and its weights are read from files of fixed names.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import snapshot_download
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cvrnet.encoders.model_args import LARGEST, check_model_args
from cvrnet.errors import UserError
from cvrnet.hub_errors import hub_errors

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there
_HUB = ("hf-hub:", "hf_hub:")
_SCHEMES = (*_HUB, "local-dir:")
_MOST_BYTES = 2**20
_OURS = ("num_classes", "in_chans", "img_size")  # arguments that the CVR-Net chooses


def is_repository(name: str) -> bool:
    """Whether an encoder's name means a repository on the Hub or a folder."""
    return name.startswith(_SCHEMES)


@dataclass(frozen=True)
class Repository:
    """An encoder in a repository or folder."""

    architecture: str  #: the timm model
    arguments: dict[str, Any]  #: further arguments of `create_encoder`, which make it without the repository
    input_size: tuple[int, int, int]  #: channels, height and width of the images that its weights were trained on
    weights: Path | None  #: the file of its weights, if they were asked for
    origin: str  #: the repository and its commit, or the folder's name


def open_repository(reference: str, cache_dir: str | Path | None = None, weights: bool = True) -> Repository:
    """Find an encoder in a repository, whose files are downloaded into the Hub's cache, or in a folder.

    Raises:
        UserError: It cannot be downloaded, or holds no timm model, or its config.json is not possible.
    """
    files = WEIGHTS if weights else ("",)
    folder, origin = _download(reference, files, cache_dir) if reference.startswith(_HUB) else _folder(reference)
    found = next((folder / file for file in files if file and (folder / file).is_file()), None)
    if weights and found is None:
        raise UserError(f"{reference} has no {' or '.join(WEIGHTS)}; expected a model that timm saved")
    try:
        config = _read(folder / CONFIG)
        check_model_args(config.get("model_args", {}))
        cfg, arguments = config.get("pretrained_cfg", config), dict(config.get("model_args", {}))
        size = _input_size(cfg, arguments)
        normalisation = {"mean": _channels(cfg, "mean"), "std": _channels(cfg, "std")}
    except ValueError as error:
        raise UserError(f"{reference}: {CONFIG} {error}") from error
    if cfg.get("global_pool") is not None:
        arguments.setdefault("global_pool", cfg["global_pool"])
    kept = {name: value for name, value in arguments.items() if name not in _OURS}
    return Repository(str(config["architecture"]), {**normalisation, **kept}, size, found, origin)


def _download(reference: str, weights: tuple[str, ...], cache_dir: str | Path | None) -> tuple[Path, str]:
    """The folder in the Hub's cache with config.json and the first of the weights' files that the repository has."""
    repo, _, revision = reference.partition(":")[2].partition("@")
    with hub_errors(f"cannot load encoder {reference}", lambda: "a copy on this machine works as local-dir:FOLDER"):
        for file in weights:
            wanted = [CONFIG, file] if file else [CONFIG]
            found = snapshot_download(repo, revision=revision or None, allow_patterns=wanted, cache_dir=cache_dir)
            if (Path(found) / file).is_file():
                break
    return Path(found), f"{repo} at commit {Path(found).name} (Hugging Face Hub)"


def _folder(reference: str) -> tuple[Path, str]:
    folder = Path(reference.partition(":")[2])
    if not (folder / CONFIG).is_file():
        raise UserError(f"{reference}: no {folder / CONFIG}; expected a folder that timm saved")
    return folder, f"{folder.resolve().name} (folder)"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"is missing, or larger than {_MOST_BYTES:,} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}") from error
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise ValueError("describes no timm model; the weights alone may fit one (--encoder-weights)")
    if not timm.is_model(name) or timm.models.is_model_in_modules(name, ["cvrnet"]):
        raise ValueError(f"names the architecture {name!r:.80}; expected one of timm.list_models() and no CVR-Net")
    return config


def _input_size(cfg: dict[str, Any], arguments: dict[str, Any]) -> tuple[int, int, int]:
    """Channels, height and width: those in the arguments, if they are there, are newer than those in the cfg."""
    channels, *size = cfg.get("input_size", (3, 224, 224))
    size = arguments.get("img_size") or size
    size = [size, size] if isinstance(size, int) else size
    whole: Any = (arguments.get("in_chans") or channels, *size)
    if len(whole) != 3 or not all(isinstance(n, int) and 0 < n <= LARGEST for n in whole):
        raise ValueError(f"has the input size {whole!r:.80}; expected channels, height and width")
    return whole


def _channels(cfg: dict[str, Any], key: str) -> tuple[float, ...]:
    values = cfg.get(key) or (IMAGENET_DEFAULT_MEAN if key == "mean" else IMAGENET_DEFAULT_STD)
    least = -math.inf if key == "mean" else 0.0
    if not isinstance(values, list | tuple) or not all(
        isinstance(v, int | float) and least < v < math.inf for v in values
    ):
        raise ValueError(f"has {key}={values!r:.80}; expected a number for each channel")
    return tuple(values)
