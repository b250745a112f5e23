"""The command line. A package beside ``cvrnet``, so that ``cvrnet --help`` does not import torch."""

from __future__ import annotations

import errno
import os
import sys

import click

from cvrnet_cli.audit import audit
from cvrnet_cli.benchmark import benchmark
from cvrnet_cli.convert_keras import convert_keras
from cvrnet_cli.crossval import crossval
from cvrnet_cli.doctor import doctor
from cvrnet_cli.evaluate import evaluate
from cvrnet_cli.explain import explain
from cvrnet_cli.export import export
from cvrnet_cli.models import models
from cvrnet_cli.phantoms import phantoms
from cvrnet_cli.predict import predict
from cvrnet_cli.pull import pull
from cvrnet_cli.push import push
from cvrnet_cli.quickstart import quickstart
from cvrnet_cli.soup import soup
from cvrnet_cli.train import train

_EXTRAS = {
    "accelerate": "train",
    "sklearn": "train",
    "scipy": "train",
    "matplotlib": "train",
    "h5py": "keras",
    "cv2": "audit",
    "datasets": "hfds",
    "pydicom": "dicom",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cvrnet", prog_name="cvrnet")
def cli() -> None:
    """CVR-Net for timm: train, evaluate and use classifiers for chest radiographs.

    \b
    Try it:      cvrnet quickstart
    Your data:   cvrnet train DATA -o RUN      (a folder with one sub-folder a class, or a CSV manifest)
                 cvrnet predict RUN images/

    Research software, not a medical device.
    """


for command in (
    quickstart,
    doctor,
    models,
    phantoms,
    audit,
    train,
    crossval,
    benchmark,
    evaluate,
    predict,
    soup,
    explain,
    convert_keras,
    export,
    push,
    pull,
):
    cli.add_command(command)


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 1 or 2, never a traceback."""
    try:
        sys.exit(cli.main(prog_name="cvrnet", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, as in `cvrnet models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(f'this command needs {error.name}; pip install "cvrnet[{extra}]"')
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


def _fail(message: str, status: int = 1) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)
