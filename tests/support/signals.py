"""Ctrl-C in tests, wherever they were started: a shell's background jobs, and their children, ignore SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigint(handler: Any = signal.default_int_handler) -> Iterator[None]:
    """Handle SIGINT like this, here and in every child that is started meanwhile.

    Args:
        handler: By default Python's own, which raises KeyboardInterrupt; ``signal.SIG_IGN`` for a background job.
    """
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
