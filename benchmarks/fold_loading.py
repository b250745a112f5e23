"""Compare the time for loading the images of one fold with the time for all five folds of a cross-validation.

    python benchmarks/fold_loading.py DATA

For any number of folds and epochs, each image is decoded once; after that, each epoch reads decoded images from files.
The script loads the images in the order of `cvrnet crossval`, without training: it decodes them; then, for each
fold, it reads the training and validation images once per epoch, and the validation and test images once at the end. It
uses one thread, and all files are in the operating system's page cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

from cvrnet.data import ImageCache, Record, make_folds, read_records
from cvrnet.workflows.crossval import fold_sets


def load(records: list[Record], folds: list[int], cache: ImageCache, numbers: range, epochs: int) -> float:
    """Return the seconds for reading the images of the folds ``numbers``, with ``epochs`` epochs for each fold."""
    started = time.perf_counter()
    for fold in numbers:
        sets = fold_sets(records, folds, fold)
        for _ in range(epochs):
            for record in (*sets["train"], *sets["val"]):
                np.array(cache.load(record.path))
        for record in (*sets["val"], *sets["test"]):
            np.array(cache.load(record.path))
    return time.perf_counter() - started


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder or manifest of images")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 20])
    arguments = parser.parse_args()
    records = read_records(arguments.data)
    folds = make_folds(records, arguments.folds)
    for record in records:
        record.path.read_bytes()  # brings the files into the page cache
    with tempfile.TemporaryDirectory() as folder:
        cache = ImageCache((arguments.size, arguments.size), "RGB", folder=folder)
        started = time.perf_counter()
        cache.build(records)
        decoding = time.perf_counter() - started
        load(records, folds, cache, range(1, 2), 1)  # not measured: brings the cache's files into the page cache
        print(f"{len(records)} images, RGB {arguments.size} x {arguments.size}; decoding them once: {decoding:.1f} s\n")
        print(f"{'epochs':>6}{'reading, 1 fold':>18}{f'{arguments.folds} folds':>12}{'loading, ratio':>17}")
        for epochs in arguments.epochs:
            one = load(records, folds, cache, range(1, 2), epochs)
            every = load(records, folds, cache, range(1, arguments.folds + 1), epochs)
            print(f"{epochs:6}{one:16.2f} s{every:10.2f} s{(decoding + every) / (decoding + one):16.2f}x")
        print(f"\ndecoding again for each fold and epoch would take {decoding * arguments.folds:.0f} s per epoch")


if __name__ == "__main__":
    main()
