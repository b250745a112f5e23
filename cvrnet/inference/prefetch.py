"""Read images in threads or processes, ahead of the network that consumes them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cvrnet.data import ImageError, Preprocessing
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.errors import UserError

Image = NDArray[np.uint8] | str  # pixels (H, W, C) in the preprocessing's size, or the reason why a file cannot be read
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, pool: AbstractContextManager[Executor]
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the function's result for it, in the order of the items.

    The threads or processes of the pool call the function, at most `ahead` items ahead of the item that is yielded.
    The items may come from an endless generator.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with pool as workers:
        try:
            for item in items:
                waiting.append((item, workers.submit(function, item)))
                if len(waiting) > ahead:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that decodes images ended unexpectedly; if memory is short, use a smaller --num-workers"
            ) from error
        finally:
            for _, result in waiting:  # the consumer stopped: cancel queued calls
                result.cancel()


def read_ahead(
    paths: Iterable[str | Path], preprocessing: Preprocessing, ahead: int, window: str = "", processes: int = 0
) -> Iterator[tuple[Path, Image]]:
    """Yield each file with its resized image, or with the reason why it cannot be read, in the order of the files.

    At most `ahead` images are read before they are needed, or two for each process if that is more. Pillow and NumPy
    release Python's global interpreter lock while they decode and resize, so threads of this process read up to eight
    images at once. If this is too slow for a GPU, set `processes` to the number of other processes that shall read the
    images instead. The files may come from an endless generator. `window` is as in `cvrnet.data.read_image`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool: AbstractContextManager[Executor]
    pool = _processes(processes) if processes else decoding_threads(min(cores, 8), "cvrnet-reader")
    return map_ahead(partial(_read, preprocessing, window), map(Path, paths), max(ahead, 2 * processes), pool)


def _read(preprocessing: Preprocessing, window: str, path: Path) -> Image:
    try:
        return preprocessing.resize(preprocessing.read(path, window))
    except ImageError as error:
        return str(error)


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Start processes that do not import PyTorch, and that leave Ctrl-C to the parent process."""
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), ignore)
    try:
        if hasattr(signal, "pthread_sigmask"):  # the new processes inherit the mask, so Ctrl-C does not reach them
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            pool.submit(int)  # starts all processes
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
