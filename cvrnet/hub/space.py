"""Make the files of a Hugging Face Space that serves a model's demo page, and upload them.

`preview_push` lists what a push would upload: the model's files and, if wanted, the Space's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd

from cvrnet.errors import UserError
from cvrnet.hub.card import DEFAULT_LICENSE, render
from cvrnet.hub.merge import mark, mark_card, merge_file
from cvrnet.hub.push import Pushed, create_repository, hub_client, read_files
from cvrnet.hub.staging import stage_run
from cvrnet.hub_errors import hub_errors
from cvrnet.runs.hub_download import parse_reference
from cvrnet.runs.layout import CARD

APP, REQUIREMENTS = "app.py", "requirements.txt"
_GRADIO = "6.31.0"  # the oldest version that can serve the page; used if gradio is not installed here
_PROGRAM = b"from cvrnet.demo import serve"


def space_files(repo: str, license: str = "") -> dict[str, bytes]:
    """Return the files of a Space that serves a model's demo page: name -> content."""
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = _GRADIO
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Without the index of CPU builds, pip would install gigabytes for GPUs; a free Space has no GPU.
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    requirements = f"# cvrnet:requirements\n{index}\ncvrnet[demo,dicom]=={version('cvrnet')}\n# /cvrnet:requirements\n"
    facts = {"repo": repo, "license": license or DEFAULT_LICENSE, "gradio": gradio, "python": python}
    return {
        APP: mark(render("app.py.jinja", repo=repo).decode()).encode(),
        REQUIREMENTS: mark(requirements).encode(),
        CARD: mark_card(render("space.md.jinja", **facts).decode()).encode(),
    }


def push_space(repo: str, *, public: bool = False, license: str = "", overwrite: bool = False) -> Pushed:
    """Push a model's demo page to a Space that has the name of the model's repository.

    The Hub then builds the Space. A new Space is private, unless `public` is True. An existing Space keeps its
    settings, its other files, and the parts of this package's files that somebody edited (see `cvrnet.hub.merge`). With
    ``overwrite``, edited parts and another program in the Space are replaced. The other arguments are those of
    `push_folds`.

    Raises:
        UserError: The Space cannot be pushed, or holds another program.
    """
    repo, _ = parse_reference(repo)
    files = space_files(repo, license)
    api = hub_client()
    with hub_errors(f"cannot push the Space {repo}", lambda: "the Space was not changed"):
        url, info = create_repository(api, repo, public, "space")
        there = read_files(api, repo, info, files, "space")
        if not overwrite and _PROGRAM not in there.get(APP, _PROGRAM):
            raise UserError(f"the Space {repo} holds another program; --overwrite replaces it")
        operations, kept = [], []
        for name, content in files.items():
            merged, parts = merge_file(name, there.get(name), content, license=license, renew=overwrite)
            kept += [f"{name} ({part})" for part in parts]
            operations.append(CommitOperationAdd(name, merged))
        commit = api.create_commit(
            repo, operations, commit_message="cvrnet push --space", repo_type="space", parent_commit=info.sha
        )
    return Pushed(repo, url, bool(info.private), {"main": commit.oid}, kept=kept)


def preview_push(
    run: Path, repo: str, *, folds: Sequence[int], with_predictions: bool, license: str, space: bool
) -> tuple[str, list[dict[str, Any]]]:
    """Return what `push_folds` would upload to a new repository: the model card, and a row for each file.

    A row has ``branch``, ``file`` and ``bytes`` (the file size). With ``space``, there are also rows for the files that
    `push_space` would upload; their branch is ``space``. The other arguments are those of `push_folds`.
    """
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
