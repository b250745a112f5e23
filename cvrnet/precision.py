"""The names of the precisions (number formats) that the user can choose; `cvrnet.devices` selects one for a device."""

from __future__ import annotations

import os

from cvrnet.errors import UserError

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")
AUTO = "CVRNET_AMP"
"""Environment variable with the precision that ``auto`` selects; without it, ``auto`` selects the fastest precision."""


def named_precision(name: str) -> str:
    """Check that a name is one of ``PRECISIONS`` and return it; for ``"auto"`` return the value of CVRNET_AMP, if set.

    Raises:
        UserError: The name, or the value of CVRNET_AMP, is unknown.
    """
    if name == "auto" and (name := os.environ.get(AUTO, "auto")) not in PRECISIONS:
        raise UserError(f"{AUTO}={name!r}; expected {', '.join(PRECISIONS)}")
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}; expected {', '.join(PRECISIONS)}")
    return name
