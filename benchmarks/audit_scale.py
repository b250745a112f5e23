"""How long the audit takes on many images, and how its memory grows.

    python benchmarks/audit_scale.py --images 10000

Writes synthetic radiographs once (`--base` of them), and fills the set up to `--images` with
noisy mixtures of them as their own patients, so that there is something to compare and little to
find. Prints seconds and peak memory (resident, of this process) of each step.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cvrnet.audit import audit
from cvrnet.data import Record, read_image, read_records, write_phantoms


def fill(folder: Path, base: list[Record], n: int, size: int) -> list[Record]:
    """`n` different images made of a few."""
    rng = np.random.default_rng(0)
    pictures = [read_image(record.path) for record in base]
    records = []
    for index in range(n):
        which = index % len(base)
        picture = cv2.resize(pictures[which], (size, size)).astype(np.float32)
        other = cv2.resize(pictures[int(rng.integers(len(base)))], (size, size))
        noise = cv2.resize(rng.normal(0, 40, (size // 8, size // 8)).astype(np.float32), (size, size))
        path = folder / f"{index}.jpg"
        mixed = np.clip(picture * 0.5 + other * 0.3 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(mixed).save(path, quality=90)
        records.append(replace(base[which], path=path, name=path.name, patient_id=f"p{index // 2}"))
    return records


def main() -> None:
    """Write the images, audit them and print times and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--base", type=int, default=120)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()

    start, cpu, name = time.perf_counter(), time.process_time(), ""

    def step(following: str) -> None:
        nonlocal start, cpu, name
        if name:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds, busy = time.perf_counter() - start, time.process_time() - cpu
            print(f"{name:<24} {seconds:7.1f} s  {busy:7.1f} s of CPU  peak {peak:6.0f} MB", flush=True)
        start, cpu, name = time.perf_counter(), time.process_time(), following

    with tempfile.TemporaryDirectory() as folder:
        base = read_records(write_phantoms(Path(folder, "base"), options.base))
        records = fill(Path(folder), base, options.images, options.size)
        step("start")
        findings = audit(records, step=step)
        step("end")
    print(f"{options.images} images, {len(findings)} findings")


if __name__ == "__main__":
    main()
