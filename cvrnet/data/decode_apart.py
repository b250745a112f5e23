"""Decode pixels in a child process, with limits on memory and time.

Decoders run in a child process if their use of memory or time has no known bound. A child serves many requests, one
after another, so the half second that its start takes is spent only once. Threads that decode at the same time use
different children.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

from cvrnet.data import decoder
from cvrnet.data.limits import Refused

Result = TypeVar("Result")
_START = 120.0  # seconds that a child may take to start
_CHECK = 0.1  # seconds between checks of the time, and of whether the result is still wanted
_MEMORY, _MEMORY_PER_SAMPLE = 300_000_000, 30  # bytes; JPEG 2000 takes about 11 per sample
_SECONDS, _SECONDS_PER_SAMPLE = 10.0, 1e-6  # JPEG 2000 takes about 6e-8 per sample


def decode_apart(data: bytes, options: dict[str, Any], samples: int) -> np.ndarray:
    """Call `cvrnet.data.decoder.decode` in a child process, with limits on memory and time.

    ``data`` and ``options`` are the arguments of ``decode``. ``samples`` is the picture's number of pixels times its
    number of channels; the limits grow with ``samples``. In a frozen or embedded program, which has no Python
    interpreter to start, ``decode`` runs in this process without limits.

    Raises:
        Refused: The picture needs too much memory or time, the decoder crashed, or this thread belongs to
            `decoding_threads` that were stopped (for example by Ctrl-C).
        ValueError: The data are damaged; the message is the decoder's.
        OSError: The child cannot be started.
    """
    if (
        getattr(sys, "frozen", False) or not sys.executable
    ):  # a frozen or embedded program has no Python interpreter to start
        return decoder.decode(data, options)
    child = _take()
    try:
        return child.decode(data, options, samples)
    finally:
        if child.usable:
            _idle.append(child)
        else:  # the child crashed, took too long, was interrupted, or holds too much memory
            child.kill()


@contextmanager
def decoding_threads(workers: int | None, name: str = "") -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads that read images; when the context ends, for example by Ctrl-C, decoding stops."""
    stopped = threading.Event()
    with ThreadPoolExecutor(workers, name, lambda: setattr(_thread, "stopped", stopped)) as pool:
        try:
            yield pool
        finally:
            stopped.set()


class _Child:
    """A process that runs `cvrnet.data.decoder`. Only one thread uses it at a time."""

    def __init__(self) -> None:
        path = f"sys.path[:] = {sys.path!r}"
        program = f"import runpy, sys; {path}; runpy.run_path({decoder.__file__!r}, run_name='__main__')"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # threads would take memory
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert process.stdin
        assert process.stdout
        self.process, self._requests, self._answers = process, process.stdin, process.stdout
        self._ready, self.usable = False, False

    def decode(self, data: bytes, options: dict[str, Any], samples: int) -> np.ndarray:
        self.usable = False
        if not self._ready:
            _within(_START, lambda: self._receive(0), "the process that decodes it does not start")
            self._ready = True
        memory = _MEMORY + len(data) + _MEMORY_PER_SAMPLE * samples
        seconds = _SECONDS + _SECONDS_PER_SAMPLE * samples

        def exchange() -> tuple[list[Any], bytes]:
            decoder.send(self._requests, [options, memory], data)
            return self._receive(2**16 + 16 * samples)

        late = f"decoding it takes longer than {seconds:.0f} seconds"
        (dtype, shape, problem, worn), content = _within(seconds, exchange, late)
        self.usable = not worn
        if problem == "memory":
            raise Refused(f"decoding it takes more than {memory // 1_000_000:,} MB of memory")
        if problem:
            raise ValueError(problem)
        return np.frombuffer(bytearray(content), dtype).reshape(shape)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                pipe.close()

    def _receive(self, most: int) -> tuple[list[Any], bytes]:
        """Receive a message and the bytes that follow it; refuse an answer of more than `most` bytes."""
        line = self._answers.readline()
        *message, length = json.loads(line) if line else (0,)
        if not message or length > most:
            raise Refused("the decoder crashed on it")
        content = self._answers.read(length)
        if len(content) < length:
            raise Refused("the decoder crashed on it")
        return message, content


_idle: list[_Child] = []
_thread = threading.local()


def _take() -> _Child:
    with suppress(IndexError):  # another thread may take the last child
        while _idle:
            child = _idle.pop()
            if child.process.poll() is None:
                return child
            child.close()
    return _Child()


def _within(seconds: float, action: Callable[[], Result], late: str) -> Result:
    """Call a blocking action in a thread, return its result; raise Refused if it takes too long or is interrupted."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BrokenPipeError:
            future.set_exception(Refused("the decoder crashed on it"))
        except Exception as error:  # noqa: BLE001  raised again where the result is taken
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    end = time.monotonic() + seconds
    stopped: threading.Event = getattr(_thread, "stopped", threading.Event())
    while True:
        try:
            return future.result(_CHECK)
        except NotYet:
            if stopped.is_set():
                raise Refused("interrupted") from None
            if time.monotonic() > end:
                raise Refused(late) from None


def _end_all() -> None:
    while _idle:
        _idle.pop().kill()


def _forget_all() -> None:
    """Forget the children in a forked process: they and their pipes belong to its parent process."""
    while _idle:
        child = _idle.pop()
        child.process.returncode = 0  # nothing to wait for
        child.close()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
