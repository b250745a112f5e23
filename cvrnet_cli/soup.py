"""``cvrnet soup``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, write_rows
from cvrnet_cli.progress import job_callbacks


@click.command(short_help="Average the folds' weights into one model, and see whether it holds up.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), required=False)
@options.output_folder(required=True, help_text="The soup: a run of its own, which every command takes as MODEL.")
@options.folds
@options.batch_size
@options.device
@options.amp
@options.overwrite
@options.reported
def soup(
    run: Path,
    data: Path | None,
    output: Path,
    folds: list[int],
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
    audit: bool,
    maps: bool,
) -> None:
    """Average the weights of RUN's folds into one model, and score folds, ensemble and soup on the same images.

    DATA are labelled images that no fold has seen. Without them the run's independent source is taken and, if it has
    none, all its images, which can only show that a soup is broken. A soup answers in the time of one fold; it can hold
    up where the folds were fine-tuned from the same pretrained weights (Wortsman et al. 2022).

    \b
    Examples:
      cvrnet soup run -o soup
      cvrnet soup run other-hospital/ -o soup
      cvrnet predict soup images/
    """
    from cvrnet.workflows.soup import make_soup

    with job_callbacks() as callbacks:
        result = make_soup(
            run,
            output,
            data,
            folds=folds,
            batch_size=batch_size or 8,
            device=device or "auto",
            amp=amp or "auto",
            audit=audit,
            maps=maps,
            overwrite=overwrite,
            callbacks=callbacks,
        )
    write_rows(result["rows"], list(result["rows"][0]), "table", sys.stdout)
    say(f"\nScored on {result['images']}.")
    for sentence in (result["batch_norm"], result["verdict"]):
        say(f"{sentence[0].upper()}{sentence[1:]}.")
    say(f"It is in {output}.")
