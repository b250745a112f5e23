"""Measure how much faster the image cache is than decoding each time, and whether its memory grows.

    python benchmarks/data_loading.py DATA

Throughput: the script decodes and resizes the images of a folder or manifest each time, and compares this with the
cache's first epoch (which decodes and writes) and second epoch (which reads). It uses one thread. All files are in the
operating system's page cache. Each image is copied as in a training step. The best of `--repeats` runs counts.

Memory (Linux only): the script simulates a data set that is larger than the memory. It links one synthetic image under
many names, so that the cache grows to `--memory-mb` megabytes. Then it limits the address space to `--limit-mb`
megabytes more than the process has (RLIMIT_AS) and reads every entry. The resident memory, which it prints, must not
grow with the number of images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.data import ImageCache, Record, read_image, read_records
from cvrnet.data.limits import Mode
from cvrnet.data.preprocessing import resize_image


def seconds(run: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def throughput(data: str, n_images: int, size: int, mode: Mode, repeats: int) -> None:
    """Print the images per second if each image is decoded each time, and in the cache's first and second epoch."""
    records = read_records(data, labelled=False)
    step = max(len(records) / n_images, 1)
    records = [records[int(index * step)] for index in range(min(n_images, len(records)))]
    shape = (size, size)

    def decode() -> None:
        for record in records:
            resize_image(read_image(record.path, mode), shape)

    def load(cache: ImageCache) -> None:
        for record in records:
            np.array(cache.load(record.path))

    times: dict[str, list[float]] = {"decoding each time": [], "cache, epoch 1": [], "cache, epoch 2": []}
    for record in records:
        record.path.read_bytes()  # brings the files into the page cache
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = ImageCache(shape, mode, folder=folder)
            times["decoding each time"].append(seconds(decode))
            times["cache, epoch 1"].append(seconds(partial(load, cache)))
            times["cache, epoch 2"].append(seconds(partial(load, cache)))
    print(f"{len(records)} images of {data} as {mode} {size} x {size}\n")
    print(f"{'':20}{'images/s':>10}{'ms/image':>10}{'ratio':>8}")
    base = min(times["decoding each time"])
    for name, found in times.items():
        best = min(found)
        print(f"{name:20}{len(records) / best:10.0f}{1000 * best / len(records):10.3f}{base / best:8.1f}")


def resident_mb() -> float:
    """Return the resident memory of this process, including mapped files, in megabytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def mapped_bytes() -> int:
    """Return the size of this process's address space."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def memory(megabytes: int, limit: int, size: int) -> None:
    """Build and read a cache larger than the limit, and print the resident memory."""
    import resource

    n_images = -(-megabytes * 1_000_000 // (size * size * 3))
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images")
        images.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(images / "0.png")
        records = [Record(images / f"{index}.png", f"{index}.png") for index in range(n_images)]
        for record in records[1:]:
            os.link(records[0].path, record.path)
        cache = ImageCache((size, size), "RGB", folder=Path(folder, "cache"))
        marks = {n_images * part // 4 for part in range(1, 5)}
        print(f"\n{n_images} images, {n_images * size * size * 3 / 1e6:.0f} MB in the cache\n")
        print(f"{'images':>10}{'resident MB, building':>24}{'reading':>10}")
        rows: dict[int, list[float]] = {0: [resident_mb()]}

        def note(done: int, _total: int) -> None:
            if done in marks:
                rows[done] = [resident_mb()]

        cache.build(records, progress=note)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + limit * 1_000_000, limits[1]))
        rows[0].append(resident_mb())
        for index, record in enumerate(records, start=1):
            np.array(cache.load(record.path))
            if index in marks:
                rows[index].append(resident_mb())
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for done, (building, reading) in sorted(rows.items()):
            print(f"{done:10}{building:24.1f}{reading:10.1f}")
        grown = rows[n_images][1] - rows[n_images // 4][1]
        print(f"\nread with {limit} MB more address space; growth from a quarter of the images to all: {grown:+.1f} MB")


def main() -> None:
    """Read the arguments, and measure throughput and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or manifest of images")
    parser.add_argument("--images", type=int, default=500, help="number of images, spread over the whole set")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--mode", choices=("L", "RGB"), default="RGB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-mb", type=int, default=1000, help="size of the simulated cache; 0 skips this part")
    parser.add_argument("--limit-mb", type=int, default=100, help="additional address space for reading the cache")
    arguments = parser.parse_args()
    throughput(arguments.data, arguments.images, arguments.size, arguments.mode, arguments.repeats)
    if arguments.memory_mb and sys.platform == "linux":
        memory(arguments.memory_mb, arguments.limit_mb, arguments.size)


if __name__ == "__main__":
    main()
