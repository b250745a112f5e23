"""``cvrnet phantoms``."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say


@click.command(short_help="Write a data set of synthetic chest radiographs.")
@options.output_folder(required=True)
@click.option("-n", "--number", type=int, default=300, show_default=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Equal seeds give equal images.")
@click.option("--size", type=int, default=256, show_default=True, help="Height in pixels.")
@click.option("--sources", default="site-a,site-b", show_default=True, help="Names of the sources.")
@click.option("--shortcut", is_flag=True, help="Plant a marker tied to one source, and the label to that source.")
@options.overwrite
def phantoms(output: Path, number: int, seed: int, size: int, sources: str, shortcut: bool, overwrite: bool) -> None:
    """Write synthetic chest radiographs with patients, sources, lung and lesion masks, and a manifest.

    NOR has clear lungs, NCP one focal consolidation, CVP bilateral peripheral ground-glass patches.

    \b
    Examples:
      cvrnet phantoms -o phantoms
      cvrnet phantoms -o biased -n 600 --shortcut
    """
    from cvrnet.data import write_phantoms
    from cvrnet.data.scan import MANIFEST
    from cvrnet.errors import UserError

    if overwrite and output.exists():
        if not (output / MANIFEST).is_file():  # never delete a folder that this command did not write
            raise UserError(f"{output} has no {MANIFEST}, so it is not a data set to overwrite; choose another folder")
        shutil.rmtree(output)
    with progress_bar("Drawing") as progress:
        manifest = write_phantoms(
            output,
            number,
            seed=seed,
            size=size,
            sources=options.split_names(sources),
            shortcut=shortcut,
            progress=progress,
        )
    click.echo(str(manifest))
    say(f"Next:\n  cvrnet train {output} -o run --model cvrnet_tiny --img-size 96 --lr 1e-3 --no-pretrained")
