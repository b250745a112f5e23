"""Measure the memory of training heads on the features of 10,000 and of 100,000 images.

python benchmarks/frozen_scale.py [IMAGES ...]        default: 10000 100000

The images do not exist: random vectors replace the features that the cache would contain. All further steps use the
library's code: the memory-mapped table, the standardisation, one epoch of training, and validation. Each number of
images runs in its own process. The script prints the largest anonymous memory, which does not include mapped files that
the system may drop and read again, and the ratio of the memory for the last number of images to that for the first.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from anonymous_memory import anonymous_mib

from cvrnet.data import ImageCache, Record
from cvrnet.inference.frozen_features import FrozenFeatures
from cvrnet.training import fit, recipe
from cvrnet.training.model import InitialModel

CLASSES = ["CVP", "NCP", "NOR"]


class RandomFeatures(FrozenFeatures):
    """Random features for images that do not exist."""

    def build(self, *_: object) -> None:
        """Compute nothing, because `_vector` returns random features."""

    def _vector(self, files: object, view: int, record: Record) -> np.ndarray:
        return np.random.default_rng(int(record.name)).normal(size=(1, self.width)).astype(np.float32)


def train(images: int) -> None:
    """Train one epoch, and print the largest memory and the time."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], anonymous_mib() or 0)

    records = [Record(Path(f"/nowhere/{i}"), str(i), CLASSES[i % 3], patient_id=str(i)) for i in range(images)]
    config = recipe("frozen", model="cvrnet_lite", pretrained=False, epochs=1, device="cpu", interpolation="bilinear")
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache((224, 224), interpolation="bilinear", folder=Path(folder))
        model = InitialModel(config, len(CLASSES)).model
        threading.Thread(target=watch, daemon=True).start()
        started = time.perf_counter()
        features = RandomFeatures(model, cache, "cpu")
        features.load(records)
        loaded = time.perf_counter() - started
        validation = images // 5
        run = Path(folder) / "run"
        fit(config, records[validation:], records[:validation], CLASSES, cache, run, model=model, features=features)
        done.set()
        table = features.vectors.nbytes / 2**20
    seconds = time.perf_counter() - started - loaded
    print(f"{images} {peak[0]:.0f} {table:.0f} {loaded:.1f} {seconds:.1f}")


def main() -> None:
    """Run each number of images in its own process, and print a table."""
    if sys.argv[1:2] == ["--one"]:
        train(int(sys.argv[2]))
        return
    memory = []
    print("  images  memory (MiB)  table on disk (MiB)  load (s)  one epoch (s)")
    for images in map(int, sys.argv[1:] or (10_000, 100_000)):
        command = [sys.executable, __file__, "--one", str(images)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        print("{:>8}  {:>12}  {:>19}  {:>8}  {:>13}".format(*found))
        memory.append(float(found[1]))
    print(f"{memory[-1] / memory[0]:.2f}x the memory")


if __name__ == "__main__":
    main()
