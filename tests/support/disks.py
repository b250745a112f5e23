"""Run commands on disks that become full: no partial file stays, one line says so, and with space the work continues.

``python -m tests.support.disks --sizes 30`` runs a campaign and prints a table; the tests run a short campaign. A disk
is a tmpfs, mounted in a namespace of this program (Linux, ``unshare``), so that nothing outside it changes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import forks, interrupts
from tests.support.whole import broken

PAGE = 4096
INSIDE = "CVRNET_TESTS_NAMESPACE"


def namespaces() -> bool:
    """Return whether this system allows us to mount a tmpfs in a namespace."""
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


class Disks(interrupts.Commands):
    """Runs the commands on disks of any size."""

    def fill(self, name: str, size: int) -> tuple[str, list[str]]:
        """Run a command on a disk of this size, and run it again after the disk was enlarged.

        Returns:
            ``fits`` or ``full``; and a line for each failed check.
        """
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True)
        try:
            return self._fill(name, disk)
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def _fill(self, name: str, disk: Path) -> tuple[str, list[str]]:
        output = disk / name
        ended = forks.run(self.folder / "log", *self.arguments(name, output))
        wrong = [fault] if (fault := ended.fault((0, 1))) else []
        wrong += broken(output)
        errors = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
        full = any("No space left on device" in line for line in errors)
        if not full and (ended.status > (name == "audit") or errors):
            wrong.append(f"says {errors}")
        if len(errors) > 1:
            wrong.append(f"{len(errors)} lines of errors, such as {errors[0]}")
        if full and not wrong:
            subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
            wrong += self._again(name, output)
        return "full" if full else "fits", wrong


def used(folder: Path) -> int:
    """Return the number of bytes that a folder takes on a tmpfs."""
    sizes = [path.stat().st_size if path.is_file() else 0 for path in (folder, *folder.rglob("*"))]
    return sum(-(-max(size, 1) // PAGE) * PAGE for size in sizes)


def fill(disks: Disks, names: list[str], sizes: int, rng: random.Random) -> interrupts.Results:
    """Run these commands in turn on disks of random sizes."""
    results = interrupts.Results()
    for i in range(sizes):
        name = names[i % len(names)]
        size = max(rng.randrange(used(disks.output(name))), PAGE)
        print(f"{size:,} bytes", file=sys.stderr)
        results.add(f"full disk, {name}", *disks.fill(name, size))
    return results


def main() -> int:
    """Run a campaign; return exit status 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=20, help="how many disks")
    parser.add_argument("--commands", default=",".join(interrupts.ALL), help="which, divided by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if INSIDE not in os.environ:
        command = ["unshare", "-rm", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {INSIDE: "1"}).returncode
    forks.prepare()
    names = given.commands.split(",")
    with tempfile.TemporaryDirectory() as folder:
        results = fill(Disks(Path(folder), names), names, given.sizes, random.Random(given.seed))
    for row in results.rows():
        print(json.dumps(row))
    return int(bool(results.problems))


if __name__ == "__main__":
    sys.exit(main())
