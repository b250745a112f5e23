"""Run one job in two processes, as ``accelerate launch`` starts them, but forked from this process.

This is faster, because ``accelerate launch`` starts three programs that import torch. `PLACE` has the variables by
which they know of one another; a test compares them with those of ``accelerate launch``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.support import forks

PLACE = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}
"""What the launcher tells all processes, apart from the port. Each also gets RANK and LOCAL_RANK."""


def run_pair(work: Path, command: Sequence[object], expected: tuple[int, int] = (0, 0)) -> tuple[str, str]:
    """Run a command line of cvrnet in two processes; return the stdout of both, and the stderr.

    Args:
        work: Folder for their output.
        command: The arguments.
        expected: The exit statuses that the processes must have.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = PLACE | {"MASTER_PORT": port}
    folders = [work / str(rank) for rank in range(2)]
    children = [forks.start(folder, command, **place, RANK=i, LOCAL_RANK=i) for i, folder in enumerate(folders)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    out, err = ("".join((folder / name).read_text() for folder in folders) for name in ("stdout", "stderr"))
    assert tuple(statuses) == expected, err
    return out, err
