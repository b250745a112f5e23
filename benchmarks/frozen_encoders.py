"""Compare the time of two cross-validations of cvrnet_lite with frozen encoders: without and with stored features.

python benchmarks/frozen_encoders.py [DATA]        default: 1,552 phantoms of 224 pixels

Each cross-validation runs in its own process. The first one starts with an empty cache: it decodes images, computes
features, and trains five folds. The second one finds the features in the cache; it averages logits, and uses another
split. The script prints the seconds and the largest memory of each process, and the ratio of the two times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvrnet.data import write_phantoms
from cvrnet.runs.layout import SUMMARY
from cvrnet.runs.read import read_json


def crossval(data: Path, run: Path, cache: Path, *further: str) -> tuple[float, float]:
    """Run one cross-validation; return its seconds and its largest memory in MiB."""
    command = [sys.executable, "-m", "cvrnet", "crossval", str(data), "-o", str(run), "--model", "cvrnet_lite"]
    command += ["--freeze", "all", "--no-audit", "--no-maps", *further]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "CVRNET_CACHE": str(cache)}, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Run both cross-validations and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = Path(sys.argv[1]) if sys.argv[1:] else write_phantoms(root / "phantoms", 1552, size=224)
        runs = {"from nothing": (), "other heads": ("--model-kwargs", "average=logits", "--seed", "1")}
        seconds = []
        for name, further in runs.items():
            run = root / name.replace(" ", "-")
            took, memory = crossval(data, run, root / "cache", *further)
            mean = read_json(run / SUMMARY)["mean_std"]["balanced_accuracy"]["mean"]
            print(f"{name:<14} {took:7.1f} s  {memory:6.0f} MiB  balanced accuracy {mean:.3f}")
            seconds.append(took)
        print(f"{seconds[0] / seconds[1]:.1f}x")


if __name__ == "__main__":
    main()
