"""Run one job in two processes, as ``accelerate launch`` starts them, but forked from this process.

This is faster, because ``accelerate launch`` starts three programs that import torch; one test still uses it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.support import forks


def run_pair(work: Path, command: Sequence[object]) -> tuple[str, str]:
    """Run a command line of cvrnet in two processes, which must succeed; return the stdout of both, and the stderr.

    Args:
        work: Folder for their output.
        command: The arguments.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    place |= {"ACCELERATE_MIXED_PRECISION": "no"}
    folders = [work / str(rank) for rank in range(2)]
    children = [forks.start(folder, command, **place, RANK=i, LOCAL_RANK=i) for i, folder in enumerate(folders)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    out, err = ("".join((folder / name).read_text() for folder in folders) for name in ("stdout", "stderr"))
    assert statuses == [0, 0], err
    return out, err
