"""Run the command line on damaged files: it must not print a traceback, hang, or need more than 1 GiB.

``python -m tests.support.fuzz --images 20000 --others 3000`` runs a campaign and prints a table; the tests run
a short campaign.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import forks, mutations
from tests.support.interrupts import TRAINING, WHOLE, Commands

BATCH = 200


@dataclass
class Count:
    """The results for one kind of files."""

    files: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    grown: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Campaign:
    """Damages the files of a data set and a run, and runs commands on them.

    Args:
        folder: Folder for the damaged files and the outputs.
        commands: What made the data set and the run.
        seed: Seed of the damage.
        keep: Folder for each file for which a check failed.
    """

    def __init__(self, folder: Path, commands: Commands, seed: int, keep: Path | None) -> None:
        self.folder, self.keep = folder, keep
        self.rng = random.Random(seed)
        self.counts: dict[str, Count] = {}
        self.case = folder / "case"
        self.pictures = mutations.pictures()
        self.data, self.run = commands.data, commands.run
        self.image = next(self.data.glob("images/**/*.png"))

    def _must(self, *arguments: object) -> None:
        ended = forks.run(self.folder / "setup", *arguments)
        assert ended.status == 0, ended.err

    def images(self, number: int) -> None:
        """Run ``predict`` on folders of damaged images, and check that each image has a row."""
        names, contents = list(self.pictures), list(self.pictures.values())
        for start in range(0, number, BATCH):
            self._clean()
            files = {}
            for i in range(start, min(start + BATCH, number)):
                name = names[i % len(names)]
                files[f"{i}-{name}"] = mutations.mutate(self.pictures[name], self.rng, contents)
            self._predict("images", files)

    def bombs(self, number: int) -> None:
        """Run ``predict`` on files that would need very much memory, one at a time."""
        bombs = mutations.bombs()
        for name in self.rng.sample(sorted(bombs), min(number, len(bombs))):
            self._clean()
            self._predict("memory bombs", {name: bombs[name]()})

    def _predict(self, kind: str, files: dict[str, bytes]) -> None:
        folder = self.case / "images"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        ended = forks.run(self.case / "out", "predict", self.run, *sorted(folder.iterdir()), "--format", "csv")
        fault = ended.fault((0, 1))
        if not fault:
            rows = list(csv.DictReader(ended.out.splitlines()))
            seen = {row["path"].rpartition("/")[2] for row in rows}
            if missing := [name for name in files if not any(path.startswith(name) for path in seen)]:
                fault = f"no row for {missing[0]}"
        bad = sum(line.startswith(f"Error: {folder}") for line in ended.err.splitlines())
        self._count(kind, ended, fault, len(files), refused=min(bad, len(files)))
        if fault and len(files) > 1:  # which one was it?
            for name, content in files.items():
                self._clean()
                self._predict(f"{kind}, alone", {name: content})

    def manifests(self, number: int) -> None:
        """Run ``audit`` or ``predict`` on damaged manifests."""
        text = (self.data / "manifest.csv").read_text()
        lines = text.splitlines()
        for _ in range(number):
            self._clean()
            shutil.copytree(self.data, self.case, copy_function=os.link, dirs_exist_ok=True)
            (self.case / "manifest.csv").unlink()  # the other name stays as it is
            few = "\n".join([lines[0], *self.rng.sample(lines[1:], self.rng.choice([3, 8, 20]))])
            (self.case / "manifest.csv").write_bytes(mutations.mutate_table(few, self.rng))
            if self.rng.random() < 0.5:
                command = ["audit", self.case / "manifest.csv", "-o", self.case / "audit"]
            else:
                command = ["predict", self.run, self.case / "manifest.csv"]
            self._run("manifests", *command)

    def model_files(self, number: int) -> None:
        """Damage each file of a run in turn, and run the commands that read it."""
        out = self.case / "out-folder"
        at = self.case / "run"
        uses: dict[str, list[list[object]]] = {
            "config.json": [["predict", at, self.image], ["export", at, "-o", self.case / "m.onnx"]],
            "model.safetensors": [["predict", at, self.image], ["explain", at, self.image, "-o", out]],
            "run.json": [
                ["evaluate", at, self.data, "-o", out, "--no-audit"],
                ["train", self.data, "-o", at, *WHOLE, "--resume"],
                ["audit", self.data, "--model", at],
            ],
            "split.csv": [
                ["evaluate", at, self.data, "-o", out, "--no-audit"],
                ["audit", self.data, "--model", at],
                ["crossval", self.data, "-o", out, *TRAINING, "--split-from", at / "split.csv", "--only-fold", 9],
            ],
            "metrics.json": [["train", self.data, "-o", at, *WHOLE, "--resume"]],
            "predictions.csv": [["train", self.data, "-o", at, *WHOLE, "--resume"]],
            "history.csv": [["train", self.data, "-o", at, *WHOLE, "--resume"]],
            "training-state.pt": [["train", self.data, "-o", at, *WHOLE, "--resume"]],
            "model.onnx": [["predict", at / "model.onnx", self.image]],
        }
        names = list(uses)
        for i in range(number):
            name = names[i % len(names)]
            self._clean()
            shutil.copytree(self._training_state() if name == "training-state.pt" else self.run, at)
            if name == "model.onnx":
                shutil.copy(self._onnx(), at)
            content = (at / name).read_bytes()
            if name.endswith(".json"):
                content = mutations.mutate_json(content.decode(), self.rng)
            elif name.endswith(".csv"):
                content = mutations.mutate_table(content.decode(), self.rng)
            else:
                content = mutations.mutate(content, self.rng, [content])
            (at / name).write_bytes(content)
            self._run(name, *self.rng.choice(uses[name]))

    def _training_state(self) -> Path:
        """Make a run that was stopped after its first epoch."""
        folder = self.folder / "stopped"
        if folder.is_dir():
            return folder

        def kill(child: int) -> None:
            deadline = time.monotonic() + forks.HANGS
            while not (folder / "training-state.pt").is_file() and time.monotonic() < deadline:
                time.sleep(0.002)
            os.kill(child, 9)

        forks.run(self.folder / "setup", "train", self.data, "-o", folder, *WHOLE, interrupt=kill)
        assert (folder / "training-state.pt").is_file()
        return folder

    def _onnx(self) -> Path:
        """Export the run."""
        file = self.folder / "model.onnx"
        if not file.is_file():
            self._must("export", self.run, "-o", file)
        return file

    def _run(self, kind: str, *arguments: object) -> None:
        ended = forks.run(self.case / "out", *arguments)
        self._count(kind, ended, ended.fault(), 1, refused=int(ended.status != 0))

    def _count(self, kind: str, ended: forks.Ended, fault: str, files: int, refused: int) -> None:
        count = self.counts.setdefault(kind, Count())
        count.files += files
        count.refused += refused
        count.accepted += files - refused
        count.slowest = max(count.slowest, ended.seconds)
        count.grown = max(count.grown, ended.grown)
        if files > 1 and count.files % (10 * BATCH) == 0:
            print(f"{kind}: {count.files}", file=sys.stderr, flush=True)
        if fault:
            print(f"{kind}: {fault}", file=sys.stderr, flush=True)
            count.faults[fault] += 1
            if self.keep is not None:
                number = sum(c.faults.total() for c in self.counts.values())
                shutil.copytree(self.case, self.keep / f"{number:04}-{kind.replace(' ', '-')}", symlinks=True)

    def _clean(self) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()


def rows(counts: dict[str, Count]) -> Iterator[dict[str, object]]:
    """Yield a row for each kind of files."""
    for kind, count in counts.items():
        yield {
            "kind": kind,
            "files": count.files,
            "read": count.accepted,
            "refused": count.refused,
            "faults": count.faults.total(),
            "slowest": f"{count.slowest:.1f} s",
            "memory": f"{count.grown / forks.MIB:.0f} MiB",
            "which": dict(count.faults.most_common()),
        }


def damage(
    campaign: Campaign, manifests: int, model_files: int, images: int, bombs: int
) -> Iterator[dict[str, object]]:
    """Damage so many files of each kind, and return the table."""
    campaign.manifests(manifests)
    campaign.model_files(model_files)
    campaign.images(images)
    campaign.bombs(bombs)
    return rows(campaign.counts)


def main() -> int:
    """Run a campaign; return exit status 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="damaged images")
    parser.add_argument("--manifests", type=int, default=20, help="damaged manifests")
    parser.add_argument("--model-files", type=int, default=18, help="damaged files of a run, and ONNX files")
    parser.add_argument(
        "--bombs", type=int, default=0, help="number of files that ask for very much memory, at most 16"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for what went wrong")
    given = parser.parse_args()
    forks.prepare()
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(Path(folder) / "made", ["train"])
        campaign = Campaign(Path(folder), commands, given.seed, given.keep)
        table = list(damage(campaign, given.manifests, given.model_files, given.images, given.bombs))
    for row in table:
        print(json.dumps(row))
    return int(any(row["faults"] for row in table))


if __name__ == "__main__":
    sys.exit(main())
