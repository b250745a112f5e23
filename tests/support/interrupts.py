"""Stop commands at random moments, by Ctrl-C or kill -9: they must leave no partial file, and can be resumed.

``python -m tests.support.interrupts --moments 100`` runs a campaign and prints a table; the tests run a short campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support import forks
from tests.support.signals import sigint
from tests.support.whole import broken

TRAINING = ["--encoders", "test_resnet", "--img-size", 64, "--no-pretrained", "--lr", 1e-3, "--seed", 0, "--no-audit"]
WHOLE = [*TRAINING, "--epochs", 2, "--num-workers", 1]
ALL = ("predict", "phantoms", "explain", "evaluate", "export", "audit", "train", "crossval", "soup")


class Commands:
    """The commands that write files, on a small data set and a finished run.

    Args:
        folder: Folder for all files.
        names: The commands. Each is first run without an interruption, to know its time and weights.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        needed = "crossval" if {"crossval", "soup"} & {*names} else "train"
        self.data, self.run = folder / "data", folder / needed
        os.environ["CVRNET_CACHE"] = str(folder / "cache")
        must = forks.run(folder / "log", "phantoms", "-o", self.data, "-n", 24, "--size", 64)
        assert must.status == 0, must.err
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, bytes]] = {}
        for name in [needed, *(n for n in names if n != needed)]:
            output = self.output(name)
            ended = forks.run(folder / "log", *self.arguments(name, output))
            assert ended.status in (0, 1), ended.err
            assert not (wrong := broken(output)), wrong
            self.seconds[name] = ended.seconds
            self.expected[name] = weights(output)

    def output(self, name: str) -> Path:
        """Return the folder to which a command writes."""
        return self.folder / name

    def arguments(self, name: str, output: Path) -> list[object]:
        """Return a command line."""
        return {
            "train": ["train", self.data, "-o", output, *WHOLE],
            "crossval": ["crossval", self.data, "-o", output, *TRAINING, "--epochs", 1, "--folds", 3],
            "predict": ["predict", self.run, self.data / "images", "--heads", "-o", output / "p.csv"],
            "evaluate": ["evaluate", self.run, self.data, "-o", output, "--no-audit"],
            "audit": ["audit", self.data, "-o", output],
            "explain": ["explain", self.run, self.data / "images/site-a", "-o", output, "--raw"],
            "export": ["export", self.run, "-o", output / "m.onnx"],
            "soup": ["soup", self.run, self.data, "-o", output],
            "phantoms": ["phantoms", "-o", output, "-n", 60, "--size", 64],
        }[name]

    def stop(self, name: str, after: float, how: signal.Signals) -> tuple[str, list[str]]:
        """Stop a command, check the files, and run it again.

        Args:
            name: The command.
            after: Seconds until the signal.
            how: ``SIGINT``, sent to the whole process group as by a terminal, or ``SIGKILL``.

        Returns:
            ``stopped``, ``killed`` (by kill -9), or ``finished`` if the command ended before; and a line for each
            failed check.
        """
        output = self.folder / "stopped" / name
        shutil.rmtree(output.parent, ignore_errors=True)
        killed = how == signal.SIGKILL

        def interrupt(child: int) -> None:
            while os.getsid(child) != child:
                time.sleep(0.001)
            time.sleep(after)
            os.killpg(child, how)

        ended = forks.run(self.folder / "log", *self.arguments(name, output), interrupt=interrupt)
        stopped = ended.status == (-9 if killed else 130)
        wrong = []
        if not killed:
            wrong += [fault] if (fault := ended.fault((0, 1, 130))) else []
            if stopped and ended.err.strip().splitlines()[-1] != "Error: interrupted":
                wrong.append(f"last words: {ended.err.strip().splitlines()[-1]}")
            if ended.status == 1 and name != "audit":
                wrong.append(f"fails: {ended.err.strip().splitlines()[-1]}")
        wrong += broken(output, killed=killed)
        if wrong or not stopped:
            return ("killed" if killed else "stopped") if stopped else "finished", wrong
        wrong += self._again(name, output)
        return "killed" if killed else "stopped", wrong

    def _again(self, name: str, output: Path) -> list[str]:
        """Run the same command again: it continues or starts again, with the same result as without interruption."""
        arguments = self.arguments(name, output)
        if name in ("train", "crossval"):
            arguments.append("--resume")
        ended = forks.run(self.folder / "log", *arguments)
        if ended.status == 1 and "--overwrite" in ended.err:
            ended = forks.run(self.folder / "log", *arguments, "--overwrite")
        if ended.fault((0, 1)) or ended.status > (name == "audit"):
            return [f"cannot be repeated: {(ended.err.strip().splitlines() or ['?'])[-1]}"]
        wrong = [line for line in broken(output) if "left behind" not in line]
        if weights(output) != self.expected[name]:
            wrong.append("other weights than without an interruption")
        return wrong


def weights(folder: Path) -> dict[str, bytes]:
    """Return the trained weights in a folder: name of the file -> content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


def while_importing(after: float, *command: str) -> tuple[int, str]:
    """Interrupt a new program ``after`` seconds, while it starts; return its exit status and stderr."""
    with sigint():
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=forks.HANGS)
    return process.returncode, err


class Results:
    """How often each kind of interruption ended in each way, and what was wrong."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.problems: list[str] = []

    def add(self, kind: str, result: str, wrong: list[str]) -> None:
        """Count a result, and print it to stderr."""
        self.counts.setdefault(kind, Counter())[result] += 1
        self.counts[kind]["problems"] += bool(wrong)
        self.problems.extend(f"{kind}: {line}" for line in wrong)
        print(f"{kind}: {result}{''.join(f'; {line}' for line in wrong)}", file=sys.stderr, flush=True)

    def rows(self) -> list[dict[str, object]]:
        """Return a row for each kind."""
        return [{"kind": kind, **count} for kind, count in self.counts.items()]


def interrupt(commands: Commands, names: list[str], moments: int, kills: int, rng: random.Random) -> Results:
    """Stop these commands in turn at random moments, by Ctrl-C, then by kill -9."""
    results = Results()
    for i in range(moments):
        name = names[i % len(names)]
        results.add(f"Ctrl-C, {name}", *commands.stop(name, rng.uniform(0, commands.seconds[name]), signal.SIGINT))
    long = [name for name in names if name in ("train", "crossval")]
    for i in range(kills if long else 0):
        name = long[i % len(long)]
        results.add(f"kill -9, {name}", *commands.stop(name, rng.uniform(0, commands.seconds[name]), signal.SIGKILL))
    return results


def interrupt_imports(number: int, rng: random.Random) -> Results:
    """Stop programs while they start."""
    results = Results()
    program = str(Path(sys.executable).with_name("cvrnet"))
    for _ in range(number):
        after = rng.uniform(0.1, 8)
        status, err = while_importing(after, program, "predict", "nothing", "nothing.png")
        lines = err.strip().splitlines()
        clean = (status, lines) == (130, ["Error: interrupted"]) or (status == -signal.SIGINT and not lines)
        done = status == 1 and len(lines) == 1
        what = "stopped" if clean else "finished" if done else "unclean"
        wrong = [] if clean or done else [f"after {after:.2f} s: {status}: {err.strip()[-300:]}"]
        results.add("while it starts", what, wrong)
    return results


def main() -> int:
    """Run a campaign; return exit status 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="how many Ctrl-C")
    parser.add_argument("--kills", type=int, default=5, help="how many kill -9, of train and crossval")
    parser.add_argument("--imports", type=int, default=0, help="how many Ctrl-C while a program starts")
    parser.add_argument("--commands", default=",".join(ALL), help="which, divided by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    results = [interrupt_imports(given.imports, rng)]
    names = given.commands.split(",")
    if given.moments or given.kills:
        forks.prepare()
        with tempfile.TemporaryDirectory() as folder:
            commands = Commands(Path(folder), names)
            results.append(interrupt(commands, names, given.moments, given.kills, rng))
    for row in [row for part in results for row in part.rows()]:
        print(json.dumps(row))
    return int(any(part.problems for part in results))


if __name__ == "__main__":
    sys.exit(main())
