"""Decode compressed pixels. Run as a program, this file decodes for another process, within a memory limit.

This file imports nothing from cvrnet, because those imports would take seconds and much memory. Each message is a line
of JSON and the bytes that follow it; the last value of the line is the number of these bytes.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from contextlib import suppress
from typing import IO, Any

import numpy as np

_NOTHING = np.zeros(0, np.uint8)
_WORN = 300_000_000  # bytes; if decoders leave more than this in memory, the process has to be replaced


def decode(data: bytes, options: dict[str, Any]) -> np.ndarray:
    """Return the pixels of a DICOM frame, or the bytes of an uncompressed copy of a TIFF file.

    With the option ``transfer_syntax``, `data` is the DICOM frame, and the other options are those of
    `pydicom.pixels.decoders.base.Decoder.as_array`. Without this option, `data` is the TIFF file.
    """
    if "transfer_syntax" not in options:
        return np.frombuffer(_uncompressed(data), np.uint8)
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    options = {**options, "pixel_keyword": "PixelData"}
    return get_decoder(options.pop("transfer_syntax")).as_array(encapsulate([data]), index=0, **options)[0]


def _uncompressed(data: bytes) -> bytes:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the size has been checked
    file = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
        image.load()
        image.info.clear()  # for example, tags that Pillow cannot write
        image.save(file, "TIFF", compression=None)
    return file.getvalue()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until their sender closes the pipe."""
    own = memory_in_use()
    while line := requests.readline():
        options, memory, length = json.loads(line)
        data = requests.read(length)
        try:
            limit_memory(own + memory)
            pixels = np.ascontiguousarray(decode(data, options))
            problem = ""
        except MemoryError:
            pixels, problem = _NOTHING, "memory"
        except Exception as error:  # noqa: BLE001  on damaged files, decoders raise nearly every built-in exception
            pixels, problem = _NOTHING, " ".join(str(error).split()) or type(error).__name__
        worn = memory_in_use() > own + _WORN  # memory that a decoder did not free would count against the next limit
        send(answers, [pixels.dtype.str, pixels.shape, problem, worn], pixels.data.cast("B"))


def send(pipe: IO[bytes], message: list[Any], content: bytes | memoryview) -> None:
    """Write one message: a line of JSON, then the bytes of ``content``."""
    pipe.write(json.dumps([*message, len(content)]).encode() + b"\n")
    pipe.write(content)
    pipe.flush()


def memory_in_use() -> int:
    """Return the size of this process's address space in bytes; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def limit_memory(size: int) -> None:
    """Limit the address space of this process on Linux; other systems do not enforce such a limit."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> None:
    """Answer requests on standard input and output. Ctrl-C is ignored here; the parent process handles it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a decoder's output must not mix with the results
    with suppress(ImportError):
        import pydicom.pixels  # noqa: F401  import it before a request limits time and memory
    send(answers, ["ready"], b"")
    serve(requests, answers)


if __name__ == "__main__":
    main()
