"""Where an encoder's pretrained weights lie, found out by one short question instead of minutes of retries."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from huggingface_hub import file_exists, try_to_load_from_cache


def hub_repository(name: str) -> str | None:
    """The Hugging Face Hub repository of a timm model's pretrained weights, ``timm/<architecture>.<tag>``.

    timm publishes its weights under that name; a few cfgs, such as ``legacy_xception``'s, name a download address
    only.

    Args:
        name: A timm model name, with or without a tag.

    Returns:
        The repository, or None where timm knows no pretrained weights.

    >>> hub_repository("resnet50"), hub_repository("legacy_xception"), hub_repository("densenet264d")
    ('timm/resnet50.a1_in1k', 'timm/legacy_xception.tf_in1k', None)
    """
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None or not cfg.has_weights:
        return None
    return cfg.hf_hub_id or f"timm/{cfg.architecture}.{cfg.tag}"


def locate_weights(name: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """Find a timm model's pretrained weights: in the cache, in their Hub repository, or at the address in timm's cfg.

    Args:
        name: A timm model name, with or without a tag.
        cache_dir: The Hub's cache, where not the usual one.

    Returns:
        An overlay of timm's pretrained cfg; empty where timm's own source is the right one.

    Raises:
        OSError: No answer from the Hub within its time limit (10 s), offline mode, or an answer that is an error.
        Exception: Other failures of the connection, of the types that the Hub's client raises.
    """
    cfg, repository = timm.get_pretrained_cfg(name), hub_repository(name)
    if (
        cfg is None
        or repository is None
        or cfg.custom_load
        or (not cfg.hf_hub_id and _is_downloaded(cfg.url, cache_dir))
    ):
        return {}
    repo_id, _, revision = repository.partition("@")
    filename = cfg.hf_hub_filename or "model.safetensors"
    found = isinstance(try_to_load_from_cache(repo_id, filename, cache_dir, revision or None), str)
    if not found:
        found = file_exists(repo_id, filename, revision=revision or None)
    return {"hf_hub_id": repository} if found and not cfg.hf_hub_id else {}


def _is_downloaded(url: object, cache_dir: str | Path | None) -> bool:
    folder = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints"))  # where timm puts what has an address only
    return isinstance(url, str) and (folder / PurePosixPath(url).name).exists()
