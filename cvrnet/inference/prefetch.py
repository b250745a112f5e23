"""Read images in threads, ahead of the network that consumes them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageError, Preprocessing
from cvrnet.data.decode_apart import decoding_threads

Image = NDArray[np.uint8] | str  # (H, W, C) of the preprocessing's size; or the reason why the file cannot be read
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Yield items and what a function gives for them, in the items' order; at most `ahead` results wait.

    The function is called in threads that may read images. The items may come from an endless generator.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with decoding_threads(workers, "cvrnet-reader") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > ahead:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, result in waiting:  # the consumer stopped: cancel queued calls
                result.cancel()


def read_ahead(
    paths: Iterable[str | Path], preprocessing: Preprocessing, ahead: int, window: str = ""
) -> Iterator[tuple[Path, Image]]:
    """Yield files and their resized images in the files' order, with at most `ahead` images waiting.

    Threads suffice: Pillow and NumPy release Python's lock while they decode and resize. The files may come from an
    endless generator. The window is that of `cvrnet.data.read_image`.
    """

    def read(path: Path) -> Image:
        try:
            return preprocessing.resize(preprocessing.read(path, window))
        except ImageError as error:
            return str(error)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return map_ahead(read, map(Path, paths), ahead, min(cores, 8))
