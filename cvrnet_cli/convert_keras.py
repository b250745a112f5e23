"""``cvrnet convert-keras``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, write_rows


@click.command("convert-keras", short_help="One of the authors' Keras checkpoints as a run.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.h5")
@options.output_folder(required=True, help_text="The run: config.json, model.safetensors, run.json.")
@click.option("--classes", help="Class names in the order of the outputs, such as NOR,NCP.  [default: class_0, ...]")
@options.overwrite
def convert_keras(file: Path, output: Path, classes: str | None, overwrite: bool) -> None:
    """Make a run of FILE.h5, a checkpoint of the authors' notebook (Keras 2 save_weights or model.save).

    The network is `cvrnet_keras`, the notebook's own graph: its answers are those of Keras. Number of classes and
    image channels are read from the file; class names are not in it. Where Keras's flow_from_directory made the
    classes, their order is alphabetical.

    \b
    Examples:
      cvrnet convert-keras Model_task_1_Fold_2.hdf5 -o run --classes NCP,NOR
      cvrnet predict run images/
    """
    from cvrnet.keras import convert_keras as run

    made = run(file, output, options.split_names(classes) if classes is not None else None, overwrite=overwrite)
    row = {**made["config"], "classes": ",".join(made["classes"])}
    write_rows([row], list(row), "table", sys.stdout)
    say(f"\nThe model is in {output}. Next:\n  cvrnet predict {output} IMAGES")
