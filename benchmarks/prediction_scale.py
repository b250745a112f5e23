"""Measure ``cvrnet predict`` with 100, 1,000 and 10,000 images: time should grow linearly, and memory should not grow.

    python benchmarks/prediction_scale.py [--model cvrnet_tiny] [--img-size 64] [--counts 100 1000 10000]

Each count runs in its own process. The images are 500 phantoms of 256 pixels and copies of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import cvrnet
from cvrnet.data import write_phantoms
from cvrnet.runs.checkpoint import save_checkpoint


def predict(model: Path, images: Path, output: Path) -> tuple[float, float]:
    """Run the command; return its seconds and peak resident bytes."""
    command = [sys.executable, "-m", "cvrnet", "predict", str(model), str(images), "-o", str(output), "--device", "cpu"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvrnet_tiny")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 10_000])
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        model = cvrnet.create_model(args.model, num_classes=3)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, args.img_size, args.img_size)}
        save_checkpoint(model, root / "model", ["CVP", "NCP", "NOR"])
        write_phantoms(root / "phantoms", min(500, max(args.counts)), size=256)
        phantoms = sorted((root / "phantoms").glob("images/**/*.png"))
        print(f"{args.model}, {args.img_size} px, {torch.get_num_threads()} threads")
        print(f"{'images':>8}{'seconds':>10}{'ms/image':>10}{'peak MB':>9}")
        done: list[tuple[int, float]] = []
        for count in args.counts:
            folder = root / f"{count}"
            folder.mkdir()
            for i in range(count):
                shutil.copyfile(phantoms[i % len(phantoms)], folder / f"{i:06d}.png")
            seconds, memory = predict(root / "model", folder, root / f"{count}.csv")
            with (root / f"{count}.csv").open() as file:
                assert sum(1 for _ in file) == count + 1
            print(f"{count:8}{seconds:10.1f}{1000 * seconds / count:10.1f}{memory / 1e6:9.0f}", flush=True)
            done.append((count, seconds))
            shutil.rmtree(folder)
        for (few, before), (many, after) in itertools.pairwise(done):
            print(f"from {few} to {many}: {1000 * (after - before) / (many - few):.2f} ms for each further image")


if __name__ == "__main__":
    main()
