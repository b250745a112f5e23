"""The command line. A package beside ``cvrnet``, so that ``cvrnet --help`` does not import torch."""

import errno
import io
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
    from cvrnet_cli.output import say

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding, or no text in a name
    try:
        sys.exit(cli.main(prog_name="cvrnet", standalone_mode=False) or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of the output has stopped, as in `cvrnet models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        reason = error.strerror or os.strerror(error.errno)
        _fail(f"{where}{reason}" + (" (free some space)" if error.errno == errno.ENOSPC else ""))
    except ValueError as error:
        from cvrnet.errors import UserError

        if not isinstance(error, UserError):
            raise
        _fail(str(error))


def _fail(message: str, status: int = 1) -> NoReturn:
    from cvrnet_cli.output import say

    say(f"Error: {message}")
    sys.exit(status)
