"""Finds an encoder's pretrained weights with one short request, where timm alone would retry for minutes."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from huggingface_hub import file_exists, try_to_load_from_cache


def hub_repository(name: str) -> str | None:
    """The Hugging Face Hub repository of a timm model's pretrained weights, ``timm/<architecture>.<tag>``.

    timm publishes its weights under that name, even where its cfg names a download address only, as that of
    ``legacy_xception`` does. The name may have a tag. None if timm has no pretrained weights.

    >>> hub_repository("resnet50"), hub_repository("legacy_xception"), hub_repository("densenet264d")
    ('timm/resnet50.a1_in1k', 'timm/legacy_xception.tf_in1k', None)
    """
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None or not cfg.has_weights:
        return None
    return cfg.hf_hub_id or f"timm/{cfg.architecture}.{cfg.tag}"


def locate_weights(name: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """Changes to timm's pretrained cfg with which it finds a model's weights; empty if it does without.

    The weights are in the Hub's cache, in their Hub repository, or at the address in timm's cfg.

    Raises:
        OSError: The Hub did not answer within 10 s, answered with an error, or may not be asked (offline mode).
        Exception: The connection failed; the types are those of the Hub's client.
    """
    cfg, repository = timm.get_pretrained_cfg(name), hub_repository(name)
    if cfg is None or repository is None or cfg.custom_load:
        return {}
    downloads = Path(cache_dir or Path(torch.hub.get_dir(), "checkpoints"))  # where timm puts files from addresses
    if not cfg.hf_hub_id and isinstance(cfg.url, str) and (downloads / PurePosixPath(cfg.url).name).exists():
        return {}
    repo_id, _, revision = repository.partition("@")
    filename = cfg.hf_hub_filename or "model.safetensors"
    found = isinstance(try_to_load_from_cache(repo_id, filename, cache_dir, revision or None), str)
    found = found or file_exists(repo_id, filename, revision=revision or None)
    return {"hf_hub_id": repository} if found and not cfg.hf_hub_id else {}
