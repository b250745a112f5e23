"""Load encoders from models that timm saved: ``hf-hub:user/repo[@revision]`` and ``local-dir:FOLDER``.

Any repository that timm wrote (``push_to_hf_hub``, ``save_for_hf``) can be an encoder: its config.json gives the
architecture and its arguments, and the size and the normalisation of its images. A repository may be untrusted, so only
these values are used, after a check, and the weights are read only from files with fixed names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import snapshot_download
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from cvrnet.encoders.model_args import LARGEST, check_model_args
from cvrnet.encoders.network_size import limited_size
from cvrnet.errors import UserError
from cvrnet.hub_errors import hub_errors
from cvrnet.strict_json import read_config_file

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists is used
_HUB = ("hf-hub:", "hf_hub:")
_SCHEMES = (*_HUB, "local-dir:")
_OURS = ("num_classes", "in_chans", "img_size")  # arguments that the CVR-Net chooses
_NOT_OF_TIMM = ("name", "model_name", "num_maps", "source_size", "mean", "std")  # timm's models do not take these
_IMPOSSIBLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions that timm raises for impossible arguments."""
_SMALL, _PARAMETERS_A_BYTE = 10_000_000, 16
"""A network of more than `_SMALL` parameters may have at most `_PARAMETERS_A_BYTE` parameters for each byte of its
weights file. The limit is not tighter, because the file may lack layers that no encoder uses."""


def is_repository(name: str) -> bool:
    """Return whether an encoder's name means a repository on the Hub or a folder."""
    return name.startswith(_SCHEMES)


@dataclass(frozen=True)
class Repository:
    """An encoder in a repository or folder."""

    architecture: str  #: the timm model
    arguments: dict[str, Any]  #: with these arguments, `create_encoder` makes the encoder without the repository
    input_size: tuple[int, int, int]  #: channels, height and width of the images that its weights were trained on
    weights: Path | None  #: the file of the weights, if they were requested
    origin: str  #: the repository and its commit, or the folder's name


def open_repository(reference: str, cache_dir: str | Path | None = None, weights: bool = True) -> Repository:
    """Find an encoder in a folder, or in a repository; download a repository's files into the Hub's cache.

    Raises:
        UserError: The repository cannot be downloaded, or contains no timm model; no network can be made from its
            config.json; or config.json asks for more parameters than the weights file can hold, or for more than
            CVRNET_MAX_PARAMETERS.
    """
    files = WEIGHTS if weights else ("",)
    folder, origin = _download(reference, files, cache_dir) if reference.startswith(_HUB) else _folder(reference)
    found = next((folder / file for file in files if file and (folder / file).is_file()), None)
    if weights and found is None:
        raise UserError(f"{reference} has no {' or '.join(WEIGHTS)}; expected a model that timm saved")
    try:
        config = _read(folder / CONFIG)
        cfg, arguments = config.get("pretrained_cfg", config), _arguments(config)
        size = _input_size(cfg, arguments)
        normalisation = {key: _channels(cfg, key, size[0]) for key in ("mean", "std")}
        kept = {name: value for name, value in arguments.items() if name not in _OURS}
        _check_network(config["architecture"], kept, size, found)
    except (OSError, ValueError) as error:
        raise UserError(f"{reference}: {error}") from error
    return Repository(config["architecture"], {**normalisation, **kept}, size, found, origin)


def _download(reference: str, weights: tuple[str, ...], cache_dir: str | Path | None) -> tuple[Path, str]:
    """Download config.json and the first existing file of ``weights``; return their folder, and their origin."""
    repo, _, revision = reference.partition(":")[2].partition("@")
    with hub_errors(f"cannot load encoder {reference}", lambda: "load a copy on this machine as local-dir:FOLDER"):
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
    if not path.is_file():
        raise ValueError(f"no {CONFIG}; expected a model that timm saved")
    config = read_config_file(path)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise ValueError(f"{CONFIG} does not describe a timm model; to load only weights, use --encoder-weights FILE")
    if not timm.is_model(name) or timm.models.is_model_in_modules(name, ["cvrnet"]):
        raise ValueError(
            f"{CONFIG} names the architecture {name!r:.80}; expected one of timm.list_models() that is not a CVR-Net"
        )
    return dict(config)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model's arguments, with the ``global_pool`` of its ``pretrained_cfg``, if the cfg has one."""
    arguments, pool = config.get("model_args", {}), config.get("pretrained_cfg", config).get("global_pool")
    try:
        check_model_args(arguments)
    except ValueError as error:
        raise ValueError(f"{CONFIG} {error}") from error
    if unwanted := [name for name in _NOT_OF_TIMM if name in arguments]:
        raise ValueError(f"{CONFIG} has {unwanted[0]!r} among the model's arguments, but timm has no such argument")
    if not isinstance(pool, str | None):
        raise ValueError(f"{CONFIG} has global_pool={pool!r:.80}; expected a string")
    return dict(arguments) if pool is None else {"global_pool": pool, **arguments}


def _input_size(cfg: dict[str, Any], arguments: dict[str, Any]) -> tuple[int, int, int]:
    """Return channels, height and width, from the model's arguments or, if these do not state them, from the cfg."""
    stated = cfg.get("input_size", (3, 224, 224))
    whole = list(stated) if isinstance(stated, list | tuple) else [stated]
    if (size := arguments.get("img_size")) is not None:
        whole[1:] = size if isinstance(size, list) else [size, size]
    if (channels := arguments.get("in_chans")) is not None:
        whole[:1] = [channels]
    if len(whole) != 3 or not all(type(n) is int and 0 < n <= LARGEST for n in whole):
        wanted = f"channels, height and width, each a whole number from 1 to {LARGEST:,}"
        raise ValueError(f"{CONFIG} has the input size {whole!r:.80}; expected {wanted}")
    return whole[0], whole[1], whole[2]


def _channels(cfg: dict[str, Any], key: str, channels: int) -> tuple[float, ...]:
    values = cfg.get(key) or (IMAGENET_DEFAULT_MEAN if key == "mean" else IMAGENET_DEFAULT_STD)
    least = -LARGEST if key == "mean" else 1 / LARGEST
    if (
        not isinstance(values, list | tuple)
        or len(values) not in (1, 3, channels)
        or not all(type(v) in (int, float) and least <= v <= LARGEST for v in values)
    ):
        raise ValueError(
            f"{CONFIG} has {key}={values!r:.80}; expected a {'' if key == 'mean' else 'positive '}number per channel"
        )
    return tuple(values)


def _check_network(
    architecture: str, arguments: dict[str, Any], size: tuple[int, int, int], weights: Path | None
) -> None:
    """Make the network as a check; raise ValueError if this fails, or if the weights file is too small for it."""
    cfg = timm.get_pretrained_cfg(architecture)
    fixed = {"img_size": size[1:]} if cfg is not None and cfg.fixed_input_size else {}
    try:
        network = _empty(architecture, {**arguments, **fixed})
    except UserError:
        raise
    except _IMPOSSIBLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"timm model {architecture!r} cannot serve as an encoder: {reason}") from error
    count = sum(parameter.numel() for parameter in network.parameters())
    if weights is not None and count > max(_SMALL, _PARAMETERS_A_BYTE * (stored := weights.stat().st_size)):
        raise ValueError(f"{CONFIG} asks for {count:,} parameters, but {weights.name} has only {stored:,} bytes")


def _empty(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        with limited_size(), torch.device("meta"):
            return timm.create_model(architecture, **arguments)
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
    with limited_size():  # not on the meta device: this network computes with its random weights while it is made
        return timm.create_model(architecture, **arguments)
