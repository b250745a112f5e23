"""``cvrnet doctor``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import click

from cvrnet_cli import options
from cvrnet_cli.output import write_rows

_CORE = ("cvrnet", "torch", "timm", "torchvision", "huggingface-hub", "safetensors", "numpy", "pillow")


@click.command(short_help="This machine and installation in one table, for a bug report.")
@options.style
def doctor(style: str | None) -> None:
    """Show versions, device, number formats, threads, extras and the Hub, to paste into a bug report.

    \b
    Examples:
      cvrnet doctor
    """
    write_rows(({"item": k, "value": v} for k, v in _findings()), ("item", "value"), style or "table", sys.stdout)


def _findings() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    for name in _CORE:
        yield name, _version(name) or "missing"
    import torch

    from cvrnet.devices import has_bf16, select_device

    device = select_device()
    yield "device", _device_name(device.type)
    yield "bf16", "by instruction" if has_bf16(device) else "emulated or not at all: fp32 is the default here"
    yield "threads", f"{torch.get_num_threads()} (of {os.cpu_count()} processors)"
    for extra, packages in _extras().items():
        missing = [name for name in packages if _version(name) is None]
        hint = f'missing {", ".join(missing)}: pip install "cvrnet[{extra}]"'
        yield f"extra [{extra}]", hint if missing else "installed"
    from huggingface_hub import constants, get_token

    yield "Hub endpoint", constants.ENDPOINT + (" (offline)" if constants.HF_HUB_OFFLINE else "")
    yield "Hub login", "a token is stored" if get_token() else "none: `hf auth login` (needed to push, or for private)"
    yield "Hub cache", constants.HF_HUB_CACHE


def _device_name(kind: str) -> str:
    import torch

    if kind == "cuda":
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return f"cuda: {cards} (CUDA {torch.version.cuda})"
    return f"{kind} ({torch.backends.cpu.get_cpu_capability()})" if kind == "cpu" else kind


def _extras() -> dict[str, list[str]]:
    """The extras that the package declares for users, and the packages each one brings."""
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("cvrnet") or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker and "cvrnet[" not in requirement:
            extra = marker.split("extra ==")[1].strip().strip("'\"")
            name = requirement.split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()
            if extra not in ("dev", "docs", "bench"):
                extras.setdefault(extra, []).append(name)
    return extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
