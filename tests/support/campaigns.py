"""Short campaigns that share one data set and one run, in a fork of this process, which has imported everything."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import random
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

from tests.support import forks
from tests.support.disks import Disks, fill
from tests.support.fuzz import Campaign, damage
from tests.support.interrupts import interrupt

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER


def run(folder: Path, *, mounts: bool) -> list[dict[str, object]]:
    """Run the campaigns; return their tables.

    Args:
        folder: An empty folder for all files.
        mounts: Also run the campaign of full disks, in a namespace in which disks can be mounted.

    Raises:
        AssertionError: A check failed; the message is what the campaigns printed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            forks.prepare()
            _leave_pytest(folder)
            if mounts:
                _enter_namespace()
            status = _run(folder, mounts)
        except BaseException:  # noqa: BLE001  # the parent shows it
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, (folder / "stderr").read_text()
    return json.loads((folder / "table.json").read_text())


def _run(folder: Path, mounts: bool) -> int:
    commands = Disks(folder / "commands", ["phantoms", "train", "predict"])
    # With this seed, files of most kinds are read, and others refused.
    table = list(damage(Campaign(folder, commands, 4, None), manifests=2, model_files=7, images=30, bombs=2))
    # Both moments of this seed are near the middle: a command that runs again may end in three quarters of the time.
    results = [interrupt(commands, ["phantoms", "train"], 2, 0, random.Random(9))]
    if mounts:
        # A disk for the start of a training, and one page for the predictions, which need two.
        results.append(fill(commands, ["train", "predict"], 2, random.Random(6)))
    for part in results:
        table += part.rows()
    (folder / "table.json").write_text(json.dumps(table))
    return int(any(row.get("faults") for row in table) or any(part.problems for part in results))


def _leave_pytest(folder: Path) -> None:
    """Write to a file, show warnings, and measure memory as in a process of its own."""
    sys.stdout = sys.stderr = (folder / "stderr").open("w", buffering=1)
    importlib.reload(warnings)
    logging.getLogger().handlers.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise children could fill what is free here without growing
    forks._idle.cache_clear()


def _enter_namespace() -> None:
    """As ``unshare -rm``."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS | NEW_USER):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(text)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
