"""Images read and resized in threads, ahead of the network that waits for them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageError, Preprocessing, read_image

Image = NDArray[np.uint8] | str
"""uint8 (H, W, C) of the preprocessing's size; or why the file cannot be read."""


def read_ahead(
    paths: Iterable[str | Path], preprocessing: Preprocessing, ahead: int, window: str = ""
) -> Iterator[tuple[Path, Image]]:
    """Files and their images, in the files' order, at most `ahead` of them waiting.

    Decoding and resizing leave Python's lock alone, so that they run beside the network, not in turns with it.

    Args:
        paths: The files; may be a generator without end.
        preprocessing: Size, channels and interpolation.
        ahead: How many images may wait to be taken.
        window: Of CTs, as in `cvrnet.data.read_image`.
    """
    decode = partial(read_image, window=window) if window else read_image

    def read(path: Path) -> Image:
        try:
            return preprocessing.resize(decode(path, preprocessing.mode))
        except ImageError as error:
            return str(error)

    waiting: deque[tuple[Path, Future[Image]]] = deque()
    with ThreadPoolExecutor(_threads(), thread_name_prefix="cvrnet-reader") as pool:
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
            for _, image in waiting:  # the taker has gone: what nobody waits for is not read
                image.cancel()


def _threads() -> int:
    """One a processor of this process, up to eight."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 8)
