"""Ctrl-C, but never in the middle of an import: that leaves half-made modules, and errors of every kind behind."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C as Python does, but after an import that is under way, and surely.

    While the library itself is imported, before which nothing has been done, the process ends at once: one line, exit
    status 130. Where Python would lose the exception, with a traceback, in a finaliser or a weak reference's callback,
    it is raised again. Where somebody else handles Ctrl-C already, or ignores it, nothing is changed.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = sys.unraisablehook

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            _again()
        else:
            before(unraisable)

    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = before
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _importing(frame):
        raise KeyboardInterrupt
    library = sys.modules.get("cvrnet")
    if library is None or getattr(library.__spec__, "_initializing", False):
        os.write(2, b"Error: interrupted\n")
        os._exit(130)
    _again()


def _again() -> None:
    """Interrupt once more, a moment later."""
    later = threading.Timer(0.05, _thread.interrupt_main)
    later.daemon = True
    later.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
