"""``cvrnet pull``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows


@click.command(short_help="A run from the Hugging Face Hub.")
@click.argument("repo", metavar="USER/REPO[@REV]")
@options.output_folder(required=False, help_text="The run.  [default: the repository's name]")
@click.option("--fold", "folds", type=click.IntRange(1), multiple=True, help="Only this fold; may be repeated.")
@options.overwrite
def pull(repo: str, output: Path | None, folds: tuple[int, ...], overwrite: bool) -> None:
    """Download a run that `cvrnet push` pushed, or any model that timm did, into a folder that every command accepts.

    REV is a branch, a tag or a commit. Each file is checked against its SHA-256, and only JSON and safetensors are
    read. Without a network (or with HF_HUB_OFFLINE=1) the run comes from the cache. After a failure, repeat the
    command: it continues.

    \b
    Examples:
      cvrnet pull ada/chest
      cvrnet pull ada/chest@v1.0 -o chest --fold 1 --fold 3
    """
    from huggingface_hub.utils import logging

    from cvrnet.hub import pull_folds
    from cvrnet.runs.hub_download import parse_reference

    logging.set_verbosity_error()  # the client warns of each attempt; our own messages give the outcome
    output = output or Path(parse_reference(repo)[0].partition("/")[2])
    with progress_bar("Pulling", unit="commit") as progress:
        pulled = pull_folds(repo, output, folds=folds, overwrite=overwrite, progress=progress)
    rows = [
        {"fold": name, "commit": commit} for name, commit in {pulled.revision: pulled.commit, **pulled.folds}.items()
    ]
    write_rows(rows, ["fold", "commit"], "table", sys.stdout)
    say(f"\nThe run is in {output}. Next:\n  cvrnet predict {output} IMAGES")
