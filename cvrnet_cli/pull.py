"""``cvrnet pull``."""

from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say


@click.command(short_help="Download a run from the Hugging Face Hub.")
@click.argument("repo", metavar="USER/REPO[@REV]")
@options.output("Folder of the run.  [default: the repository's name]")
@options.folds
@options.overwrite
def pull(repo: str, output: Path | None, folds: list[int], overwrite: bool) -> None:
    """Download a run that `cvrnet push` pushed, or any model that timm pushed, to a folder that commands take as MODEL.

    REV is a branch, a tag or a commit. Each file is checked against its hash, and only JSON and safetensors files are
    read. Without a network connection (or with HF_HUB_OFFLINE=1), the run comes from the cache. After a failure,
    repeat the command: it continues.

    \b
    Examples:
      cvrnet pull ada/chest
      cvrnet pull ada/chest@v1.0 -o chest --fold 1,3
    """
    from huggingface_hub.utils import logging

    from cvrnet.hub import pull_folds
    from cvrnet.runs.hub_download import parse_reference

    logging.set_verbosity_error()  # the client warns of each attempt; our own messages give the outcome
    output = output or Path(parse_reference(repo)[0].partition("/")[2])
    with progress_bar("Pulling", unit="commit") as progress:
        pulled = pull_folds(repo, output, folds=folds, overwrite=overwrite, progress=progress)
    commits = {pulled.revision: pulled.commit, **pulled.folds}
    print_rows([{"fold": name, "commit": commit} for name, commit in commits.items()])
    say(f"\nThe run is in {output}. Next:\n  cvrnet predict {output} IMAGES")
