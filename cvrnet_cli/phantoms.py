"""``cvrnet phantoms``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, tell


@click.command(short_help="Write a data set of synthetic chest radiographs.")
@options.output("Folder of the data set.", required=True)
@click.option(
    "-n", "--number", "n", type=int, help="Number of images.  [default: 300; 120 studies with --volumes or --follow-up]"
)
@click.option("--volumes", is_flag=True, help="Write CTs of 20 to 60 slices each; few slices show the lesion.")
@click.option(
    "--follow-up",
    is_flag=True,
    help="Write three to six radiographs of each patient, of different days; the label is the trend: better or worse.",
)
@options.seed
@click.option("--size", type=int, help="Height in pixels.  [default: 256; 128 with --volumes or --follow-up]")
@click.option("--sources", type=options.names, default="site-a,site-b", help="Names of the sources.")
@click.option("--shortcut", is_flag=True, help="Mark the images of one source, and give this source mostly one label.")
@options.overwrite
def phantoms(output: Path, volumes: bool, follow_up: bool, **settings: Any) -> None:
    """Write synthetic chest radiographs with patients, sources, lung and lesion masks, and a manifest.

    Without --volumes and --follow-up, there are three classes: NOR shows clear lungs, NCP one focal consolidation, and
    CVP bilateral peripheral ground-glass patches. Equal seeds give equal images.

    \b
    Examples:
      cvrnet phantoms -o phantoms
      cvrnet phantoms -o biased -n 600 --shortcut
      cvrnet phantoms -o volumes --volumes
      cvrnet phantoms -o follow-up --follow-up
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if volumes or follow_up:
        _write_studies(output, volumes, follow_up, given)
        return
    from cvrnet.data import write_phantoms

    with progress_bar("Drawing") as progress:
        manifest = write_phantoms(output, progress=progress, **given)
    tell(str(manifest))
    say(f"Next:\n  cvrnet train {output} -o run --model cvrnet_tiny --img-size 96 --lr 1e-3 --no-pretrained")


def _write_studies(output: Path, volumes: bool, follow_up: bool, settings: dict[str, Any]) -> None:
    """Write synthetic CTs, or synthetic radiographs of several days, and print the path of their manifest."""
    from cvrnet.data.phantom_studies import write_studies

    if volumes and follow_up:
        raise click.UsageError("--volumes cannot be used with --follow-up")
    if settings.pop("shortcut") or settings.pop("sources") != ("site-a", "site-b"):
        raise click.UsageError("--shortcut and --sources cannot be used with --volumes or --follow-up")
    with progress_bar("Drawing") as progress:
        kind = "volumes" if volumes else "follow-up"
        manifest = write_studies(output, kind, progress=progress, **settings)
    tell(str(manifest))
    say(f"Next:\n  cvrnet train {output} -o run --unit study --freeze all --model cvrnet_lite --img-size 96")
