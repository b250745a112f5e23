"""``cvrnet phantoms``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, tell


@click.command(short_help="Write a data set of synthetic chest radiographs.")
@options.output("Folder of the data set.", required=True)
@click.option("-n", "--number", "n", type=int, default=300, help="Number of images.")
@options.seed
@click.option("--size", type=int, default=256, help="Height in pixels.")
@click.option("--sources", type=options.names, default="site-a,site-b", help="Names of the sources.")
@click.option("--shortcut", is_flag=True, help="Mark the images of one source, and give this source mostly one label.")
@options.overwrite
def phantoms(output: Path, **settings: Any) -> None:
    """Write synthetic chest radiographs with patients, sources, lung and lesion masks, and a manifest.

    NOR has clear lungs, NCP one focal consolidation, CVP bilateral peripheral ground-glass patches. Equal seeds give
    equal images.

    \b
    Examples:
      cvrnet phantoms -o phantoms
      cvrnet phantoms -o biased -n 600 --shortcut
    """
    from cvrnet.data import write_phantoms

    with progress_bar("Drawing") as progress:
        manifest = write_phantoms(output, progress=progress, **settings)
    tell(str(manifest))
    say(f"Next:\n  cvrnet train {output} -o run --model cvrnet_tiny --img-size 96 --lr 1e-3 --no-pretrained")
