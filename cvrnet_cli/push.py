"""``cvrnet push``."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say, tell, write_rows


@click.command(short_help="Push a run to the Hugging Face Hub, private by default.")
@click.argument("run", type=options.PATH)
@click.argument("repo", metavar="USER/REPO")
@click.option("--public", is_flag=True, help="Make the repository public.  [default: private]")
@options.folds
@click.option("--tag", default="", show_default=False, help="Name for this state of the repository, such as v1.0.")
@click.option(
    "--with-predictions", is_flag=True, help="Also push split.csv and predictions.csv, with hashed paths and ids."
)
@click.option("--space", is_flag=True, help="Also push the Space USER/REPO, which serves the run's page (cvrnet demo).")
@click.option(
    "--license",
    default="",
    show_default=False,
    help="License of the weights, by its name on the Hub.  [default: the existing card's license, or apache-2.0]",
)
@click.option("--dry-run", is_flag=True, help="Push nothing: show the card and the files.")
@options.overwrite
def push(run: Path, repo: str, space: bool, dry_run: bool, **settings: Any) -> None:
    """Push RUN (made by train, crossval, calibrate or convert-keras) to USER/REPO.

    The branch `main` gets a model card and the best fold, and the branch `fold-k` gets fold k.

    No image, patient id, name of an image file, local path, login or host name leaves the machine. The repository is
    private unless --public is given. Files in the repository that cvrnet does not write are kept, and so are the parts
    of the card that somebody edited. If the repository already holds another run, the command stops with an error.
    --overwrite replaces the other run and the edited parts. After a failure, repeat the command: it continues. Log in
    with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      cvrnet push run ada/chest --dry-run
      cvrnet push run ada/chest --tag v1.0
      cvrnet push run ada/chest --fold 1,3
      cvrnet push run ada/chest --space
    """
    if dry_run:
        return _show(run, repo, space, settings)
    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "3")  # by default, the client retries for 5 minutes
    from huggingface_hub.utils import logging

    from cvrnet.hub import push_folds, push_space

    logging.set_verbosity_error()  # the client warns of each attempt; our own messages give the outcome
    with progress_bar("Pushing", unit="branch") as progress:
        pushed = push_folds(run, repo, progress=progress, **settings)
    print_rows([{"branch": branch, "commit": commit} for branch, commit in pushed.commits.items()])
    tag = settings["tag"]
    say(f"\n{pushed.url} ({'private' if pushed.private else 'public'}){f', tagged {tag}' if tag else ''}")
    if space:
        page = push_space(pushed.repo, **{name: settings[name] for name in ("public", "license", "overwrite")})
        say(f"{page.url} ({'private' if page.private else 'public'})")
        if pushed.private:
            say("The model is private: give the Space a secret HF_TOKEN with read access to the model.")
    if kept := [*pushed.kept, *(f"the Space's {part}" for part in page.kept)] if space else pushed.kept:
        say(f"Parts kept, because somebody edited them: {', '.join(kept)}. --overwrite replaces them.")
    say(f"Next:\n  cvrnet predict hf-hub:{pushed.repo} IMAGES")


def _show(run: Path, repo: str, space: bool, settings: dict[str, Any]) -> None:
    """Print the card, and the name and size of each file that a push would send."""
    from cvrnet.hub.space import preview_push

    chosen = {name: settings[name] for name in ("folds", "with_predictions", "license")}
    card, rows = preview_push(run, repo, space=space, **chosen)
    tell(card.rstrip("\n"))
    write_rows(rows, list(rows[0]), "table", sys.stderr)
    say(
        "\nNothing was pushed. This is the card of a new repository. If the repository already has a card, the parts "
        "that somebody edited are kept."
    )
