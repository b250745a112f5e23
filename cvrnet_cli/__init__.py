"""The command line. This package lies beside ``cvrnet``, not in it, so that ``cvrnet --help`` does not import torch."""

import errno
import io
import os
import sys
from typing import NoReturn

from cvrnet_cli.interruption import ignore_interrupts, interruptible, was_interrupted

_EXTRAS = {
    "train": ("accelerate", "sklearn", "scipy", "matplotlib"),
    "keras": ("h5py",),
    "audit": ("cv2", "cleanlab"),
    "hfds": ("datasets",),
    "lungs": ("segmentation_models_pytorch",),
    "dicom": ("pydicom",),
    "demo": ("gradio",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}
"""Extras (as in ``pip install "cvrnet[train]"``), each with the import names of packages that it installs."""


@interruptible()
def main() -> None:
    """Run the command line. A user's mistake gives a message without a traceback, and the exit status 1 or 2."""
    try:
        _main()
    except (KeyboardInterrupt, Exception):  # Ctrl-C may come while an error is handled, or may cause an error in C code
        if not was_interrupted():
            raise
        _fail("interrupted", 130)


def _main() -> None:
    import click  # imported here, so that Ctrl-C is handled from the first import on

    from cvrnet_cli.commands import cli

    # With this variable, PyTorch asks the operating system for large pages of memory. The system then needs less than
    # half the time to provide memory for feature maps.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the encoding cannot show
    try:
        _replace_closed_streams()
        status = cli.main(prog_name="cvrnet", standalone_mode=False) or 0
        sys.stdout.flush()  # an error while Python flushes at exit would print a traceback
        sys.exit(status)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _end(shown.getvalue().rstrip("\n"), error.exit_code)
    except BrokenPipeError:  # the reader of the output has stopped, as in `cvrnet models | head`
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                _fail(f'this command needs {package}; pip install "cvrnet[{extra}]"')
        raise
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or os.strerror(error.errno)
        _fail(f"{where}{reason}" + (" (free some space)" if error.errno == errno.ENOSPC else ""))
    except ValueError as error:
        from cvrnet.errors import UserError

        if not isinstance(error, UserError):
            raise
        _fail(str(error))
    finally:
        _discard_unwritten()


class _ClosedOutput(io.TextIOBase):
    """Replaces a stdout that was closed before the start: writing raises an error, as in other Unix tools."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "stdout")


def _replace_closed_streams() -> None:
    """Replace each standard stream that was closed before the start (``>&-``), because Python has set it to None.

    This also occupies the stream's file descriptor; otherwise the next opened file would get this descriptor.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            stream = _ClosedOutput() if name == "stdout" else os.fdopen(descriptor, mode, encoding="utf-8")
            setattr(sys, name, stream)


def _discard_unwritten() -> None:
    """Flush stdout and stderr. Text that cannot be written is discarded; at exit, writing it would fail again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str, status: int = 1) -> NoReturn:
    _end(f"Error: {message}", status)


def _end(text: str, status: int) -> NoReturn:
    ignore_interrupts()  # so that the text appears whole, and nothing after it
    from cvrnet_cli.output import say

    if was_interrupted():
        text, status = "Error: interrupted", 130
    say(text)
    sys.exit(status)
