"""Select the device to compute on, and the fastest number format on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cvrnet.errors import UserError
from cvrnet.precision import named_precision

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str = "auto") -> torch.device:
    """Return the named device; ``"auto"`` is the first available one of CUDA, Apple's MPS and the CPU.

    Raises:
        UserError: The name is unknown, or the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # Checked here, because torch.device also accepts other types, and reads "cuda:256" as "cuda:0".
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not (index.isascii() and index.isdigit())):
        raise UserError(f"unknown device {name!r}; expected auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not available; PyTorch finds {torch.cuda.device_count()} CUDA devices")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available; expected auto or cpu")
    return torch.device(kind, int(index)) if kind == "cuda" and colon else torch.device(kind)


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware; bfloat16 is then faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # torch >= 2.11
        found = torch.cpu.get_capabilities()
        return any(found.get(name) is True for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def select_precision(name: str, device: torch.device) -> str:
    """Return the precision to compute in: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.

    ``"auto"`` selects the fastest precision on the device, unless the environment variable CVRNET_AMP names another
    precision. On a CPU without bfloat16 instructions ``"auto"`` is float32, because emulated bfloat16 would be slower.
    ``"tf32"`` is float32 with TF32 in convolutions and matrix products, on CUDA only (see `kernels`).

    Raises:
        UserError: The name is unknown, or the device cannot use it: tf32 and fp16 need CUDA.
    """
    name = named_precision(name)
    if name in ("tf32", "fp16") and device.type != "cuda":
        raise UserError(f"{name} needs a CUDA device, not {device.type}; expected auto, fp32 or bf16")
    if name != "auto":
        return name
    if has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


@contextmanager
def kernels(device: torch.device, precision: str) -> Iterator[None]:
    """Context manager: let cuDNN measure which kernels are fastest, and allow or forbid TF32.

    By default, PyTorch's convolutions multiply float32 numbers in TF32 (10 bits of mantissa). The precision ``"fp32"``
    forbids TF32. With the other precisions, the operations that stay in float32 may use TF32. On devices other than
    CUDA, this context manager has no effect.
    """
    if device.type != "cuda":
        yield
        return
    tf32 = precision != "fp32"
    products, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = products


def compile_failed(error: Exception, instead: str) -> UserError:
    """Return the error for a failed ``torch.compile``; ``instead`` says what the user can do without compilation."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"torch.compile failed ({reason}); install a C++ compiler if it is missing, or {instead}")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context manager for computing in ``"bf16"`` or ``"fp16"``; for other precisions, it does nothing."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
