"""A run's page as a Hugging Face Space: its files and their upload; and what a whole push would send."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd

from cvrnet.errors import UserError
from cvrnet.hub.card import render
from cvrnet.hub.push import Pushed, create_repository, hub_client
from cvrnet.hub.staging import stage_run
from cvrnet.runs.hub_download import parse_reference
from cvrnet.runs.hub_errors import hub_errors, with_retries
from cvrnet.runs.layout import CARD

APP, REQUIREMENTS = "app.py", "requirements.txt"
_GRADIO = "6.31.0"  # the oldest version that the page runs on; named if gradio is not installed here
_MARK = "from cvrnet.demo import serve"


def space_files(repo: str, license: str = "apache-2.0") -> dict[str, bytes]:
    """The files of a Space that serves a model's page."""
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = _GRADIO
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Without the index of CPU builds, PyTorch would bring gigabytes for GPUs, which a free Space does not have.
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    return {
        APP: render("app.py.jinja", repo=repo),
        REQUIREMENTS: f"{index}\ncvrnet[demo,dicom]=={version('cvrnet')}\n".encode(),
        CARD: render("space.md.jinja", repo=repo, license=license, gradio=gradio, python=python),
    }


def push_space(repo: str, *, public: bool = False, license: str = "apache-2.0", overwrite: bool = False) -> Pushed:
    """Push a model's page to the Space of the same name; private unless `public`.

    A Space that exists keeps its settings and other files; the Hub builds it again. With ``overwrite``, another program
    that it holds is replaced. The other arguments are those of `push_folds`.

    Raises:
        UserError: The Space cannot be pushed, or holds another program.
    """
    repo, _ = parse_reference(repo)
    files = space_files(repo, license)
    api = hub_client()
    with hub_errors(f"cannot push the Space {repo}", lambda: "it is as it was"):
        url, info = create_repository(api, repo, public, "space")
        if not overwrite and APP in {sibling.rfilename for sibling in info.siblings or ()}:
            app = with_retries(api.hf_hub_download, repo, APP, repo_type="space", revision=info.sha)
            if _MARK not in Path(app).read_text(encoding="utf-8", errors="replace"):
                raise UserError(f"the Space {repo} holds another program; --overwrite replaces it")
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="cvrnet push --space",
            repo_type="space",
            parent_commit=info.sha,
        )
    return Pushed(repo, url, bool(info.private), {"main": commit.oid})


def preview_push(
    run: Path, repo: str, *, folds: Sequence[int], with_predictions: bool, license: str, space: bool
) -> tuple[str, list[dict[str, Any]]]:
    """The card of a push, and a row (branch, file, bytes) for each file. Arguments and errors as in `push_folds`."""
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
    return branches["main"][CARD].decode(), rows
