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
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="With --dry-run: a folder for all but the weights."
)
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
    output: Path | None,
    overwrite: bool,
) -> None:
    """Push RUN (of train, crossval or convert-keras) to USER/REPO: `main` with a card and the best fold, `fold-k` each.

    No local path, login or host name leaves the machine, nor a patient's image, id or file name. The repository is
    private unless --public; another run that it holds stays unless --overwrite. After a failure the same command goes
    on. Log in with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      cvrnet push folds ada/chest --dry-run
      cvrnet push folds ada/chest --tag v1.0
      cvrnet push folds ada/chest --fold 1 --fold 3
      cvrnet push folds ada/chest --space
    """
    if output and not dry_run:
        raise click.UsageError("-o/--output goes with --dry-run")
    if dry_run:
        return _show(run, repo, folds, with_predictions, space, license, output, overwrite)
    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "3")  # the client's default gives up after five minutes
    from huggingface_hub.utils import logging

    from cvrnet.hub import push_folds, push_space

    logging.set_verbosity_error()  # its warnings tell of every attempt, ours what came of them
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


def _show(
    run: Path,
    repo: str,
    folds: tuple[int, ...],
    predictions: bool,
    space: bool,
    license: str,
    output: Path | None,
    overwrite: bool,
) -> None:
    from cvrnet.files import atomic_write
    from cvrnet.hub.space import space_files
    from cvrnet.hub.staging import stage_run
    from cvrnet.runs.hub_download import parse_reference

    staged = stage_run(run, repo, folds, with_predictions=predictions, license=license)
    branches: dict[str, Any] = {"main": staged.main_files({}), **staged.folds}
    if space:
        branches["space"] = space_files(parse_reference(repo)[0], license)
    if output and output.exists() and not overwrite:
        raise click.ClickException(f"{output} exists; --overwrite replaces it")
    rows = []
    for branch, files in branches.items():
        for name, content in sorted(files.items()):
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            rows.append({"branch": branch, "file": name, "bytes": size})
            if output and not name.endswith(".safetensors"):
                with atomic_write(output / branch / name) as temporary:
                    temporary.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    click.echo(branches["main"]["README.md"].decode(), nl=False)
    write_rows(rows, ["branch", "file", "bytes"], "table", sys.stderr)
    say(f"\nNothing was pushed.{f' The files are in {output}, without the weights.' if output else ''}")
