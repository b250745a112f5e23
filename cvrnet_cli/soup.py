"""``cvrnet soup``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Average the folds' weights into one model, and compare it with the folds.")
@click.argument("run", type=options.PATH)
@click.argument("data", type=options.PATH, required=False)
@options.manifest("data")
@options.output("Folder of the soup, a run that every command accepts as MODEL.", required=True)
@options.inference
@options.reported
def soup(run: Path, data: Path | None, output: Path, **settings: Any) -> None:
    """Average the weights of RUN's folds into one model, a soup; compare it with each fold and with their ensemble.

    The scores are computed on DATA: labelled images on which no fold should have been trained. Without DATA, the run's
    images outside all folds are used (--test-source, or split test). If the run has no such images, all its images are
    used. Then each image was used to train some of the folds, so the scores can show that a soup is bad, but not that
    it is good. A soup predicts as fast as one fold. It can be as good as the folds if the folds were fine-tuned from
    the same pretrained weights (Wortsman et al. 2022).

    \b
    Examples:
      cvrnet soup run -o soup
      cvrnet soup run other-hospital/ -o soup
      cvrnet predict soup images/
    """
    from cvrnet.workflows import make_soup

    with job_callbacks() as callbacks:
        result = make_soup(run, output, data, callbacks=callbacks, **settings)
    print_rows(result["rows"])
    say(f"\nScored on {result['images']}.")
    for sentence in (result["batch_norm"], result["verdict"]):
        say(f"{sentence[0].upper()}{sentence[1:]}.")
    say(f"The soup is in {output}.")
