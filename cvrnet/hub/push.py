"""A run to the Hub: one repository, one branch per fold, ``main`` last."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.hf_api import ModelInfo, RepoFile, SpaceInfo

from cvrnet.errors import UserError
from cvrnet.hub.staging import Files, Staged, stage_run
from cvrnet.runs.hub_download import COMMITS, Snapshot, fold_commits, hub_hash, matches, parse_reference
from cvrnet.runs.hub_errors import CLIENT_ERRORS, hub_errors, is_transient, with_retries
from cvrnet.runs.layout import CARD, RUN, fold_number
from cvrnet.runs.read import read_json

_ATTRIBUTES = ".gitattributes"  # the Hub writes it
_TRIES = 3


@dataclass
class Pushed:
    """The result of a push."""

    repo: str
    url: str = ""
    private: bool = True
    commits: dict[str, str] = field(default_factory=dict)  #: branch to commit; ``main`` too, once it is pushed
    unknown: str = ""  #: a branch whose push outcome is unknown, because the Hub did not answer


def push_folds(
    run: str | Path,
    repo: str,
    *,
    folds: Sequence[int] = (),
    public: bool = False,
    tag: str = "",
    with_predictions: bool = False,
    license: str = "apache-2.0",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Pushed:
    """Push a run: each fold to its branch, then ``main``, whose run.json records the folds' commits.

    Each branch moves in one commit or not at all, and only ``main`` makes a push visible as a whole: a reader who loads
    the repository during a push gets the old run or the new one. A repeated push continues; unchanged branches stay.

    Args:
        run: The folder of a cross-validation, a training or a converted checkpoint.
        repo: ``user/repo``; created if missing, private unless `public`.
        folds: Numbers of the folds to push, beside folds of the same run that are there already; all if empty.
        public: Let everybody see it.
        tag: A name for this state of the repository, such as ``v1.0``.
        with_predictions: Also split.csv and predictions.csv, with hashed paths and patient ids.
        license: The Hub's name of the license.
        overwrite: Replace another run or model that the repository holds.
        progress: Called after each branch with the number done and the number to do.

    Raises:
        UserError: Nothing can be pushed, or the push failed: the message says what is safe and what to do.
    """
    run = Path(run)
    repo, revision = parse_reference(repo)
    if revision:
        raise UserError(f"{repo}@{revision}: a run is pushed to a repository; expected user/repo")
    if tag and (tag == "main" or fold_number(tag) or not re.fullmatch(r"[\w.-]+", tag)):
        raise UserError(f"tag {tag!r}; expected a name such as v1.0 that is not the name of a branch")
    staged = stage_run(run, repo, folds, with_predictions=with_predictions, license=license)
    pushed = Pushed(repo)
    with hub_errors(f"cannot push {run} to {repo}", lambda: _what_is_safe(pushed)):
        _push(staged, pushed, public, tag, overwrite, progress or (lambda done, total: None))
    return pushed


def hub_client() -> HfApi:
    """The Hub's client, which names this package in its requests."""
    return HfApi(library_name="cvrnet", library_version=version("cvrnet"))


def create_repository(api: HfApi, repo: str, public: bool, kind: str = "model") -> tuple[str, ModelInfo | SpaceInfo]:
    """Create a repository ("model" or "space"), or use an existing one, which must be private unless `public`.

    Returns the address of its page, and its state.
    """
    sdk = "gradio" if kind == "space" else None
    url = with_retries(api.create_repo, repo, repo_type=kind, space_sdk=sdk, private=not public, exist_ok=True)
    info: Any = with_retries(api.repo_info, repo, repo_type=kind)
    if not info.private and not public:
        name = f"the Space {repo}" if kind == "space" else repo
        raise UserError(f"{name} is public; --public pushes to it all the same, or choose another repository")
    return str(url), info


def _push(
    staged: Staged, pushed: Pushed, public: bool, tag: str, overwrite: bool, progress: Callable[[int, int], object]
) -> None:
    api, repo, total = hub_client(), pushed.repo, len(staged.folds) + 1
    pushed.url, info = create_repository(api, repo, public)
    pushed.private, start = bool(info.private), str(info.sha)
    names = {sibling.rfilename for sibling in info.siblings or ()}
    commits = _commits_of_same_run(staged, repo, start, names, overwrite)
    if staged.folds:
        # New branches start from the first commit, which holds no files: a branch of main would inherit main's.
        first = with_retries(api.list_repo_commits, repo)[-1].commit_id
    for done, (branch, files) in enumerate(staged.folds.items()):
        progress(done, total)
        with_retries(api.create_branch, repo, branch=branch, revision=first, exist_ok=True)
        commits[branch] = pushed.commits[branch] = _put(api, pushed, branch, files)
    # With its first state as parent, main is refused if somebody else pushed in the meantime.
    pushed.commits["main"] = _put(api, pushed, "main", staged.main_files(commits), start)
    progress(total, total)
    if tag:
        _tag(api, repo, tag, pushed.commits["main"])


def _commits_of_same_run(staged: Staged, repo: str, commit: str, names: set[str], overwrite: bool) -> dict[str, str]:
    """Folds of the same run that the repository holds; another run or model is refused unless `overwrite`."""
    if RUN in names:
        path = Path(with_retries(hf_hub_download, repo, RUN, revision=commit))
        try:
            there = read_json(path)
        except UserError:  # damaged, so it is not this run
            there = {}
        there.pop(COMMITS, None)
        if there == json.loads(json.dumps(staged.run)):
            return fold_commits(Snapshot(repo, commit, path.parent)) if staged.folds else {}
    if not overwrite and names - {_ATTRIBUTES, CARD}:
        raise UserError(f"{repo} holds another {'run' if RUN in names else 'model'}; --overwrite replaces it")
    return {}


def _put(api: HfApi, pushed: Pushed, branch: str, files: Files, parent: str = "") -> str:
    """Make a branch hold exactly these files, in one commit; returns the commit that holds them.

    The answer to a commit can be lost after the commit was made. So after a failure the branch itself is compared.
    """
    repo = pushed.repo

    def find_head() -> str:
        return str(with_retries(api.model_info, repo, revision=branch).sha)

    head = find_head()
    parent = parent or head
    for attempt in range(1, _TRIES + 1):
        surplus = _difference(api, repo, head, files)
        if surplus is None:
            return head
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in surplus]
        try:
            return api.create_commit(
                repo, operations, commit_message=f"cvrnet push: {branch}", revision=branch, parent_commit=parent
            ).oid
        except CLIENT_ERRORS as error:
            pushed.unknown = branch
            head = find_head()
            pushed.unknown = ""
            if head != parent and _difference(api, repo, head, files) is None:
                return head
            if head != parent or attempt == _TRIES or not is_transient(error):
                raise
    raise AssertionError("unreachable")


def _difference(api: HfApi, repo: str, commit: str, files: Files) -> list[str] | None:
    """Names of the files in a commit that are not in `files`; None if it has the same files and contents."""
    entries = with_retries(lambda: list(api.list_repo_tree(repo, revision=commit, recursive=True)))
    there = {e.path: hub_hash(e) for e in entries if isinstance(e, RepoFile) and e.path != _ATTRIBUTES}
    same = there.keys() == files.keys() and all(matches(content, there[name]) for name, content in files.items())
    return None if same else sorted(there.keys() - files.keys())


def _tag(api: HfApi, repo: str, tag: str, commit: str) -> None:
    there = {t.name: t.target_commit for t in with_retries(api.list_repo_refs, repo).tags}
    if there.get(tag, commit) != commit:
        older = there[tag][:8]
        raise UserError(f"the run is at {repo}, but the tag {tag} is that of an older commit ({older}); choose another")
    with_retries(api.create_tag, repo, tag=tag, revision=commit, exist_ok=True)


def _what_is_safe(pushed: Pushed) -> str:
    if "main" in pushed.commits:
        return "the run is there and complete, without the tag"
    there = ", ".join(pushed.commits)
    if pushed.unknown:
        return f"{there + ' arrived; ' if there else ''}whether {pushed.unknown} did is not known, each branch is whole"
    return f"{there} arrived, main is as it was" if there else "no branch was changed"
