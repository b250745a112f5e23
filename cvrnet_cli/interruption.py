"""Handle Ctrl-C. During an import, it waits or ends the process, because half-imported modules would fail later."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressed = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C: at once or, during an import, as soon as the import has ended.

    While the package ``cvrnet`` itself is imported, Ctrl-C ends the process at once, with one line and exit status 130.
    This context does nothing outside the main thread, or if SIGINT is ignored or has another handler.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = sys.unraisablehook

    def raise_again(unraisable: sys.UnraisableHookArgs) -> None:
        # Python drops exceptions in finalisers and in callbacks of weak references, and prints a traceback.
        if unraisable.exc_type is KeyboardInterrupt:
            _interrupt_later()
        else:
            before(unraisable)

    signal.signal(signal.SIGINT, _on_sigint)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        _pressed.clear()
        sys.unraisablehook = before
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Ignore Ctrl-C while the program ends: it would only print the traceback of an exit handler.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def was_interrupted() -> bool:
    """Return whether Ctrl-C was pressed in an `interruptible` context.

    This is needed because C code may lose the KeyboardInterrupt, or raise another error instead.
    """
    return _pressed.is_set()


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in the rest of an `interruptible` context."""
    if signal.getsignal(signal.SIGINT) is _on_sigint:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_sigint(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    if not any(f.f_code.co_filename.startswith("<frozen importlib") for f, _ in traceback.walk_stack(frame)):
        raise KeyboardInterrupt
    library = sys.modules.get("cvrnet")
    if library is None or getattr(library.__spec__, "_initializing", False):
        os.write(2, b"Error: interrupted\n")
        os._exit(130)
    _interrupt_later()


def _interrupt_later() -> None:
    later = threading.Timer(0.05, _interrupt)
    later.daemon = True
    later.start()


def _interrupt() -> None:
    if hasattr(signal, "pthread_kill"):  # a signal also ends a system call that waits for a server or a disk
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
