"""Stop functions at each of their changes to the disk, one after another: by a kill, or by an error of the disk."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}
"""Audit events of Python in which a function changes a folder, or may."""
FINISHED, FAILED, SURVIVED = 0, 3, 4


def stop_at(point: int, function: Callable[[], object], *, full: bool = False) -> int:
    """Call a function in a fork of this process, which is killed just before its change number ``point`` (from 0).

    With ``full``, this change fails instead, as on a full disk.

    Returns:
        `FINISHED` if the function makes fewer changes; otherwise minus the signal, `FAILED` if the function raised the
        disk's error, or `SURVIVED` if the function finished without the change.
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            hook, reached = _at(point, full)
            sys.addaudithook(hook)
            function()
            status = SURVIVED if reached() else FINISHED
        except OSError as error:
            status = FAILED if error.errno == errno.ENOSPC else 71
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _at(point: int, full: bool) -> tuple[Callable[[str, tuple[object, ...]], None], Callable[[], bool]]:
    left = point

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in CHANGES or (event == "open" and not _writes(arguments)):
            return
        left -= 1
        if left == -1:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGKILL)

    return hook, lambda: left < 0


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
