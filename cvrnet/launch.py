"""Check that ``accelerate launch`` started several processes if several were requested."""

from __future__ import annotations

import os

from cvrnet.errors import UserError


def check_launch() -> None:
    """Raise UserError if ``accelerate launch`` started one process, although several were requested.

    Without ``--multi_gpu``, accelerate starts only one process on a machine without several GPUs, and does not warn.
    """
    asked = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if asked and not any(name in os.environ for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")):
        raise UserError(
            "accelerate launch started one process, although several were requested; "
            "add --multi_gpu, which also starts several processes on CPUs"
        )
