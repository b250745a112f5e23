"""Handle Ctrl-C in tests, also if they run in a shell's background job, which ignores SIGINT with its children."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigint(handler: Any = signal.default_int_handler) -> Iterator[None]:
    """In the ``with`` block, handle SIGINT with ``handler``, in this process and in every child started in the block.

    Args:
        handler: By default Python's own, which raises KeyboardInterrupt; ``signal.SIG_IGN`` as in a background job.
    """
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
