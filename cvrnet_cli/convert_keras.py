"""``cvrnet convert-keras``."""

from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, say


@click.command("convert-keras", short_help="Convert a Keras checkpoint of the CVR-Net authors to a run.")
@click.argument("file", type=options.PATH, metavar="FILE.h5")
@options.output("Folder of the run: config.json, model.safetensors and run.json.", required=True)
@click.option("--classes", type=options.names, help="Class names in the order of the outputs.  [default: class_0, ...]")
@options.overwrite
def convert_keras(file: Path, output: Path, classes: tuple[str, ...] | None, overwrite: bool) -> None:
    """Make a run from FILE.h5, a checkpoint of the CVR-Net authors' notebook (save_weights or model.save of Keras 2).

    The network is `cvrnet_keras`: it has the layers of the notebook's network, and gives the same probabilities as
    Keras. The numbers of classes and of image channels are read from FILE.h5. The file has no class names; give them
    with --classes. If Keras's flow_from_directory made the classes, their order is alphabetical.

    \b
    Examples:
      cvrnet convert-keras Model_task_1_Fold_2.hdf5 -o run --classes NCP,NOR
      cvrnet predict run images/
    """
    from cvrnet.keras import convert_keras as run

    made = run(file, output, classes, overwrite=overwrite)
    print_rows([{**made["config"], "classes": ",".join(made["classes"])}])
    say(f"\nThe model is in {output}. Next:\n  cvrnet predict {output} IMAGES")
