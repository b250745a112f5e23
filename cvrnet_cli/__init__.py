"""The command line. A package beside ``cvrnet``, so that ``cvrnet --help`` does not import torch."""

import errno
import os
import sys
from typing import NoReturn

from cvrnet_cli.interruption import interruptible

_EXTRAS = {
    "train": ("accelerate", "sklearn", "scipy", "matplotlib"),
    "keras": ("h5py",),
    "audit": ("cv2",),
    "hfds": ("datasets",),
    "dicom": ("pydicom",),
    "demo": ("gradio",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}
"""The extra that installs each package that may be missing; packages by the names that Python imports."""


@interruptible()
def main() -> None:
    """Entry point: a user's mistake is one line and exit status 1 or 2, never a traceback."""
    import click  # imported here, so that Ctrl-C is handled from the first import on

    from cvrnet_cli.commands import cli

    try:
        _open_closed_streams()
        status = cli.main(prog_name="cvrnet", standalone_mode=False) or 0
        sys.stdout.flush()  # here, and not when Python ends, where an error would be a traceback
        sys.exit(status)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of the output has stopped, as in `cvrnet models | head`
        _discard_output()
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in _EXTRAS.items():
            if package in packages:
                _fail(f'this command needs {error.name}; pip install "cvrnet[{extra}]"')
        raise
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{os.strerror(error.errno)}" + (" (free some space)" if error.errno == errno.ENOSPC else ""))
    except ValueError as error:
        from cvrnet.errors import UserError

        if not isinstance(error, UserError):
            raise
        _fail(str(error))


def _open_closed_streams() -> None:
    """Replace standard streams that were closed before the start (``>&-``), for which Python has None.

    Their descriptors would otherwise be given to the next files that are opened. As with other Unix tools, writing to a
    closed stdout is an error, and messages to a closed stderr are lost.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", encoding="utf-8"))


def _discard_output() -> None:
    """Let what is still buffered for stdout go nowhere, so that Python does not try to write it when it ends."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(status)
