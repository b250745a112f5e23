"""Measure how long the audit takes on many images, and how its memory grows.

    python benchmarks/audit_scale.py --images 10000

The script draws synthetic radiographs and audits them. For each step it prints the seconds, the processor seconds, the
peak of resident memory and (on Linux) the anonymous memory after the step. The difference between the two memories is
mostly pages of the audit's memory-mapped files, about 70 kB per image, which the system frees when it needs memory. The
step that reads the images includes decoding.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from anonymous_memory import anonymous_mib

from cvrnet.audit import audit
from cvrnet.data import read_records, write_phantoms


def own_mib() -> str:
    """Return the anonymous memory of this process (without mapped files) as text."""
    found = anonymous_mib()
    return "not known" if found is None else f"{found:6.0f} MiB"


def main() -> None:
    """Write the images, audit them and print times and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=192)
    options = parser.parse_args()

    start, cpu, name = time.perf_counter(), time.process_time(), ""

    def step(following: str) -> None:
        nonlocal start, cpu, name
        if name:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds, busy = time.perf_counter() - start, time.process_time() - cpu
            times = f"{seconds:7.1f} s  CPU {busy:7.1f} s"
            print(f"{name:<24} {times}  peak {peak:6.0f} MiB  anonymous {own_mib()}", flush=True)
        start, cpu, name = time.perf_counter(), time.process_time(), following

    with tempfile.TemporaryDirectory() as folder:
        records = read_records(write_phantoms(Path(folder, "data"), options.images, size=options.size))
        step("start")
        findings = audit(records, step=step)
        step("end")
    print(f"{options.images} images, {len(findings)} results of the audit")


if __name__ == "__main__":
    main()
