"""Collect facts about this machine and installation."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import constants, get_token

from cvrnet.devices import has_bf16, select_device

_CORE = ("cvrnet", "torch", "timm", "torchvision", "huggingface-hub", "safetensors", "numpy", "pillow")


def describe_installation() -> Iterator[tuple[str, str]]:
    """Yield pairs of item and value: versions, device, bf16 support, threads, extras, and settings of the Hub."""
    yield "python", f"{platform.python_version()} ({_abbreviated(sys.executable)})"
    yield "platform", platform.platform()
    for name in _CORE:
        yield name, _version(name) or "missing"
    device = select_device()
    name = device.type
    if name == "cuda":
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        name = f"cuda: {cards} (CUDA {torch.version.cuda})"
    elif name == "cpu":
        name = f"cpu ({torch.backends.cpu.get_cpu_capability()})"
    yield "device", name
    instead = "fp16" if device.type == "cuda" else "fp32"
    slow = f"emulated or unavailable: {instead} is the default here"
    yield "bf16", "in hardware: the default number format" if has_bf16(device) else slow
    yield "threads", f"{torch.get_num_threads()} (of {os.cpu_count()} processors)"
    for extra, packages in _extras().items():
        missing = ", ".join(name for name in packages if _version(name) is None)
        yield f"extra [{extra}]", f'missing {missing}: pip install "cvrnet[{extra}]"' if missing else "installed"
    yield "Hub endpoint", constants.ENDPOINT + (" (offline)" if constants.HF_HUB_OFFLINE else "")
    yield "Hub login", "a token is set" if get_token() else "none; pushing and private runs need one: `hf auth login`"
    yield "Hub cache", _abbreviated(constants.HF_HUB_CACHE)


def _abbreviated(path: str) -> str:
    """Return a path with ~ for the home folder, so bug reports do not contain the user's name."""
    homes = {Path.home(), Path(os.path.realpath(Path.home()))} - {Path("/")}
    inside = [Path(path).relative_to(home) for home in homes if Path(path).is_relative_to(home)]
    return str(Path("~") / inside[0]) if inside else path


def _extras() -> dict[str, list[str]]:
    """Return the extras for users, and the packages that each one installs."""
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("cvrnet") or []:
        if found := re.match(r"([\w.-]+).*extra == ['\"](\w+)", line):
            package, extra = found.groups()
            if package != "cvrnet" and extra not in ("dev", "docs", "bench"):
                extras.setdefault(extra, []).append(package)
    return extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
