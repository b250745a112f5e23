"""Read and resize images in threads, ahead of the network that consumes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageError, Preprocessing
from cvrnet.data.decode_apart import decoding_threads

Image = NDArray[np.uint8] | str  # (H, W, C) of the preprocessing's size; or the reason why the file cannot be read


def read_ahead(
    paths: Iterable[str | Path], preprocessing: Preprocessing, ahead: int, window: str = ""
) -> Iterator[tuple[Path, Image]]:
    """Yield files and their images in the files' order, with at most `ahead` images waiting.

    Threads suffice: Pillow and NumPy release Python's lock while they decode and resize. The files may come from an
    endless generator. The window is that of `cvrnet.data.read_image`.
    """

    def read(path: Path) -> Image:
        try:
            return preprocessing.resize(preprocessing.read(path, window))
        except ImageError as error:
            return str(error)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: deque[tuple[Path, Future[Image]]] = deque()
    with decoding_threads(min(cores, 8), "cvrnet-reader") as pool:
        try:
            for path in map(Path, paths):
                waiting.append((path, pool.submit(read, path)))
                if len(waiting) > ahead:
                    first, image = waiting.popleft()
                    yield first, image.result()
            while waiting:
                first, image = waiting.popleft()
                yield first, image.result()
        finally:
            for _, image in waiting:  # the consumer stopped: cancel queued reads
                image.cancel()
