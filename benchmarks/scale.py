"""Measure how time and memory of predict, evaluate, crossval and audit grow with the number of images.

    python benchmarks/scale.py OUTPUT [--counts 1000 10000 100000] [--commands predict evaluate crossval audit]

The images are different phantoms of 96 pixels. The model is `cvrnet_tiny` at 64 pixels, so that most of the time is the
library's own work. Every command runs in its own process, with an empty cache: `audit` without ImageNet features, the
others without audit and maps. For each command the script prints the seconds, the processor seconds, and the largest
anonymous memory, which does not include mapped files that the system may drop and read again. OUTPUT gets scale.csv and
scale.png; rows that are already in scale.csv are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import torch
from anonymous_memory import anonymous_mib

import cvrnet
from cvrnet.data import write_phantoms
from cvrnet.files import write_csv
from cvrnet.runs.checkpoint import save_checkpoint

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CLASSES = ["CVP", "NCP", "NOR"]
COMMANDS = {
    "predict": "predict {model} {data} -o {out}.csv --device cpu",
    "evaluate": "evaluate {model} {data} -o {out} --device cpu --no-audit --no-maps",
    "crossval": "crossval {data} -o {out} --model cvrnet_tiny --img-size 64 --no-pretrained --freeze all --epochs 1 "
    "--device cpu --no-audit --no-maps",
    "audit": "audit {data} -o {out} --no-features --device cpu",
}
Row = dict[str, str]


def main() -> None:
    """Measure the missing rows, print a table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    table = args.output / "scale.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    print(f"{'command':10}{'images':>8}{'seconds':>10}{'processor s':>13}{'memory MiB':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        for row in measurements(Path(temporary), args.counts, args.commands, rows):
            rows.append(row)
            write_csv(table, rows)
            print("{command:10}{images:>8}{seconds:>10}{processor:>13}{memory:>12}".format(**row), flush=True)
    draw(rows, args.output / "scale.png")


def measurements(root: Path, counts: list[int], commands: list[str], known: list[Row]) -> Iterator[Row]:
    """Yield a row for each command and number of images that is not in ``known``, small numbers first."""
    done = {(row["command"], int(row["images"])) for row in known}
    todo = [(count, name) for count in sorted(counts) for name in commands if (name, count) not in done]
    if not todo:
        return
    torch.manual_seed(0)
    model = cvrnet.create_model("cvrnet_tiny", num_classes=len(CLASSES))
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64)}
    save_checkpoint(model, root / "model", CLASSES)
    manifest = write_phantoms(root / "data", max(count for count, _ in todo), size=96)
    lines = list(csv.DictReader(manifest.open()))
    for count, name in todo:
        part = root / "data" / f"{count}.csv"
        write_csv(part, lines[:count])
        out = root / f"{name}-{count}"
        arguments = COMMANDS[name].format(model=root / "model", data=part, out=out).split()
        yield {"command": name, "images": str(count), **cost(arguments, root / f"cache-{name}-{count}")}
        shutil.rmtree(root / f"cache-{name}-{count}", ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)


def cost(arguments: list[str], cache: Path) -> Row:
    """Run a command of cvrnet; return its seconds, processor seconds and largest anonymous memory (MiB)."""
    start, peak, log = time.perf_counter(), 0.0, cache.with_suffix(".log")
    with log.open("wb") as file:
        command = [sys.executable, "-m", "cvrnet", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "CVRNET_CACHE": str(cache)})
        while True:
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            peak = max(peak, anonymous_mib(process.pid) or 0)
            time.sleep(0.05)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    seconds, processor = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {"seconds": f"{seconds:.1f}", "processor": f"{processor:.1f}", "memory": f"{peak:.0f}"}


def draw(rows: list[Row], path: Path) -> None:
    """Draw processor time and memory against the number of images."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in dict.fromkeys(row["command"] for row in rows):
        mine = [row for row in rows if row["command"] == name]
        points = sorted((int(row["images"]), float(row["processor"]), float(row["memory"])) for row in mine)
        images, seconds, memory = zip(*points, strict=True)
        left.plot(images, seconds, marker="o", label=f"cvrnet {name}")
        right.plot(images, memory, marker="o", label=f"cvrnet {name}")
    few, many = (extreme(int(row["images"]) for row in rows) for extreme in (min, max))
    low = min(float(row["processor"]) for row in rows)
    left.plot([few, many], [low, low * many / few], color="grey", linestyle=":", label="in proportion")
    left.set(xscale="log", yscale="log", xlabel="images", ylabel="processor time (s)")
    right.set(xscale="log", xlabel="images", ylabel="memory (MiB)", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
