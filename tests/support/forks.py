"""Run the command line in forks of a process that has imported everything, with limits and interruptions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HANGS = 300.0
"""Seconds after which a command is killed, and said to hang."""
MIB = 2**20
PARTS = (
    "audit",
    "data.dicom",
    "explain.pictures",
    "onnx",
    "report.explanations",
    "workflows.crossval",
    "workflows.soup",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: The exit status; negative for the signal that ended it.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
        seconds: How long it took.
        grown: Peak memory in bytes, minus the memory of a child that does nothing.
        hung: Whether it was killed because it did not end.
        orphans: Number of its own processes that were still running when it had ended.
    """

    status: int
    out: str
    err: str
    seconds: float
    grown: int
    hung: bool
    orphans: int

    def fault(self, statuses: Sequence[int] = (0, 1, 2)) -> str:
        """Say which rule for all commands was broken, such as a traceback; "" if none was."""
        if self.hung:
            return "hangs"
        if self.status not in statuses:
            return f"exit status {self.status}"
        if ignored := [line for line in self.err.splitlines() if line.startswith("Exception ignored")]:
            return ignored[0]
        if warnings := [line for line in self.err.splitlines() if "/cvrnet/" in line and "Warning: " in line]:
            return warnings[0]
        if "Traceback" in self.err:
            return f"traceback: {self.err.strip().splitlines()[-1][:200]}"
        if self.orphans:
            return f"leaves {self.orphans} processes behind"
        if self.grown > 1024 * MIB:
            return f"{self.grown // MIB} MiB"
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        found = self.out.startswith("severe") or "audit.html" in self.err  # what `audit` ends with status 1 for
        if self.status in (1, 2, 130) and not errors and not found:
            return "fails without a word"
        return ""


def prepare() -> None:
    """Import everything that the commands import, in one thread, so that children start at once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("torch", "cvrnet_cli.commands", *(f"cvrnet.{part}" for part in PARTS)):
        module = importlib.import_module(name)
        if name == "torch":
            module.set_num_threads(1)


def run(
    work: Path,
    *arguments: object,
    interrupt: Callable[[int], None] | None = None,
    limit: float = HANGS,
) -> Ended:
    """Run ``cvrnet ARGUMENTS`` in a fork of this process.

    Args:
        work: Folder for the command's stdout and stderr; made if missing.
        *arguments: The command line.
        interrupt: Called with the child's process id when the child has started.
        limit: Seconds after which the child is killed.
    """
    idle, started = _idle(), time.monotonic()
    child = start(work, arguments)
    try:
        if interrupt is not None:
            interrupt(child)
        hung = False
        while True:
            ended, code, usage = os.wait4(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - started > limit:
                hung = True
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    out, err = ((work / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    grown = max(usage.ru_maxrss * 1024 - idle, 0)
    return Ended(os.waitstatus_to_exitcode(code), out, err, time.monotonic() - started, grown, hung, orphans(child))


def start(
    work: Path, arguments: Sequence[object], sigint: Any = signal.default_int_handler, **environment: object
) -> int:
    """Start ``cvrnet ARGUMENTS`` in a fork of this process; return its process id.

    Args:
        work: Folder for the command's stdout and stderr; made if missing.
        arguments: The command line.
        sigint: The handler of Ctrl-C from the start; ``signal.SIG_IGN`` as in a background job of a shell.
        **environment: Further environment variables.
    """
    work.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.environ |= {name: str(value) for name, value in environment.items()}
        signal.signal(signal.SIGINT, sigint)
        _become(work, [str(argument) for argument in arguments])
    return child


def orphans(session: int) -> int:
    """Return how many processes of a session are still running (zombies do not count).

    A decoder process ends when it notices that its parent is gone; a killed parent cannot end it.
    """
    end = time.monotonic() + 5
    while True:
        count = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                fields = file.read_text(errors="replace").rpartition(")")[2].split()
                count += int(fields[3]) == session and fields[0] != "Z"
        if not count or time.monotonic() > end:
            return count
        time.sleep(0.01)


def _become(work: Path, arguments: list[str]) -> None:
    """Run the command line in the child; this never returns."""
    status = 70
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        _forget()
        sys.argv = ["cvrnet", *arguments]
        from cvrnet_cli import main

        os.setsid()  # from here on, a campaign may interrupt it
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # as the interpreter would show it
        traceback.print_exc()
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)


def _forget() -> None:
    """Forget state that a new process would not have: threads, which do not survive a fork, and earlier settings."""
    tempfile.tempdir = None
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "accelerate" in sys.modules:
        state = sys.modules["accelerate.state"]
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def address_space() -> int:
    """Return the bytes of address space that this process uses; a limit for a fork is in addition to these."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _idle() -> int:
    """The memory of a child that does nothing, in bytes."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.wait4(child, 0)[2].ru_maxrss * 1024
