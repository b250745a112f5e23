"""``cvrnet push``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows


@click.command(short_help="A run to the Hugging Face Hub, private by default.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repo", metavar="USER/REPO")
@click.option("--public", is_flag=True, help="Let everybody see it.  [default: private]")
@click.option("--fold", "folds", type=click.IntRange(1), multiple=True, help="Only this fold; may be repeated.")
@click.option("--tag", default="", help="A name for this state of the repository, such as v1.0.")
@click.option(
    "--with-predictions", is_flag=True, help="Also split.csv and predictions.csv; paths and patient ids are hashed."
)
@click.option("--space", is_flag=True, help="Also the Space USER/REPO, which serves the run's page (cvrnet demo).")
@click.option("--license", default="apache-2.0", show_default=True, help="Of the weights, by the Hub's name.")
@click.option("--dry-run", is_flag=True, help="Push nothing: show the card and the files.")
@options.overwrite
def push(
    run: Path,
    repo: str,
    public: bool,
    folds: tuple[int, ...],
    tag: str,
    with_predictions: bool,
    space: bool,
    license: str,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Push RUN (of train, crossval or convert-keras) to USER/REPO: `main` with a card and the best fold, `fold-k` each.

    No local path, login or host name leaves the machine, and no patient's image, id or file name. The repository is
    private unless --public is given, and another run that it holds stays unless --overwrite is given. After a failure,
    repeat the command: it continues. Log in with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      cvrnet push folds ada/chest --dry-run
      cvrnet push folds ada/chest --tag v1.0
      cvrnet push folds ada/chest --fold 1 --fold 3
      cvrnet push folds ada/chest --space
    """
    if dry_run:
        return _show(run, repo, folds, with_predictions, space, license)
    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "3")  # the client's default gives up after five minutes
    from huggingface_hub.utils import logging

    from cvrnet.hub import push_folds, push_space

    logging.set_verbosity_error()  # the client warns of each attempt; our own messages give the outcome
    with progress_bar("Pushing", unit="branch") as progress:
        pushed = push_folds(
            run,
            repo,
            folds=folds,
            public=public,
            tag=tag,
            with_predictions=with_predictions,
            license=license,
            overwrite=overwrite,
            progress=progress,
        )
    write_rows(
        [{"branch": b, "commit": c} for b, c in pushed.commits.items()], ["branch", "commit"], "table", sys.stdout
    )
    say(f"\n{pushed.url} ({'private' if pushed.private else 'public'}){f', tagged {tag}' if tag else ''}")
    if space:
        page = push_space(pushed.repo, public=public, license=license, overwrite=overwrite)
        say(f"{page.url} ({'private' if page.private else 'public'})")
        if pushed.private:
            say("The model is private: give the Space a secret HF_TOKEN that may read it.")
    say(f"Next:\n  cvrnet predict hf-hub:{pushed.repo} IMAGES")


def _show(run: Path, repo: str, folds: tuple[int, ...], with_predictions: bool, space: bool, license: str) -> None:
    """Print the card, and name and size of each file that a push would send."""
    from cvrnet.hub.space import space_files
    from cvrnet.hub.staging import stage_run
    from cvrnet.runs.hub_download import parse_reference
    from cvrnet.runs.layout import CARD

    repo, _ = parse_reference(repo)
    staged = stage_run(run, repo, folds, with_predictions=with_predictions, license=license)
    branches: dict[str, Any] = {"main": staged.main_files({}), **staged.folds}
    if space:
        branches["space"] = space_files(repo, license)
    rows = []
    for branch, files in branches.items():
        for name, content in sorted(files.items()):
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            rows.append({"branch": branch, "file": name, "bytes": size})
    click.echo(branches["main"][CARD].decode(), nl=False)
    write_rows(rows, ["branch", "file", "bytes"], "table", sys.stderr)
    say("\nNothing was pushed.")
