"""Two processes that do one job together, as ``accelerate launch`` starts them, but forked from one that has imported.

Starting them by `accelerate launch` takes three programs that import torch; one test still does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.support import forks

ROOT = Path(__file__).parents[2]


def run_pairs(*commands: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run command lines of cvrnet, one after the other, each in two processes; what all of them printed."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    return subprocess.run(
        [sys.executable, "-m", "tests.support.pairs", words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def _fork(rank: int, port: int, arguments: list[str]) -> int:
    """Start one of two processes; its id."""
    child = os.fork()
    if child:
        return child
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"ACCELERATE_MIXED_PRECISION": "no"}
    sys.argv = ["cvrnet", *arguments]
    status = 1
    try:
        from cvrnet_cli import main

        main()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter would show it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> int:
    """Run the command lines that the first argument lists; the first status that is not 0."""
    forks.prepare()
    for arguments in json.loads(sys.argv[1]):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        children = [_fork(rank, port, arguments) for rank in range(2)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(statuses):
            return max(map(abs, statuses))
    return 0


if __name__ == "__main__":
    sys.exit(main())
