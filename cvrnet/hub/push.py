"""A run to the Hub: one repository, one branch a fold, ``main`` last."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from cvrnet.errors import UserError
from cvrnet.hub.staging import Files, Staged, stage_run
from cvrnet.runs.hub_download import COMMITS, RUN, Snapshot, fold_commits, parse_reference
from cvrnet.runs.hub_errors import CLIENT_ERRORS, hub_errors, is_transient, with_retries
from cvrnet.runs.hub_hashes import hub_hash, matches

_ATTRIBUTES = ".gitattributes"  # the Hub's own
_TRIES = 3


@dataclass
class Pushed:
    """What was pushed.

    Attributes:
        repo: ``user/repo``.
        url: Its page.
        private: Whether only its owner can see it.
        commits: Branch to commit, ``main`` too once it is there.
        unknown: A branch whose commit was not answered, while the Hub could not be asked for it either.
    """

    repo: str
    url: str = ""
    private: bool = True
    commits: dict[str, str] = field(default_factory=dict)
    unknown: str = ""


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

    Each branch moves in one commit or not at all, and only ``main`` makes a push visible as a whole: whoever loads the
    repository meanwhile gets the old run or the new one. A repeated push goes on; unchanged branches stay.

    Args:
        run: The folder of a cross-validation, a training or a converted checkpoint.
        repo: ``user/repo``; made if missing, private unless `public`.
        folds: Numbers of the folds to push, beside those that are there already of the same run; all if empty.
        public: Let everybody see it.
        tag: A name for this state of the repository, such as ``v1.0``.
        with_predictions: Also split.csv and predictions.csv, with hashed paths and patient ids.
        license: The Hub's name of the license.
        overwrite: Replace another run or model that the repository holds.
        progress: Called after each branch with the number done and the number to do.

    Raises:
        UserError: Nothing can be pushed, or the push broke off: the message says what is safe and what to do.
    """
    run = Path(run)
    repo, revision = parse_reference(repo)
    if revision:
        raise UserError(f"{repo}@{revision}: a run is pushed to a repository; expected user/repo")
    if tag and (tag == "main" or re.fullmatch(r"fold-\d+", tag) or not re.fullmatch(r"[\w.-]+", tag)):
        raise UserError(f"tag {tag!r}; expected a name such as v1.0, and none of a branch")
    staged = stage_run(run, repo, folds, with_predictions=with_predictions, license=license)
    pushed = Pushed(repo)
    with hub_errors(f"cannot push {run} to {repo}", lambda: _what_is_safe(pushed)):
        _push(staged, pushed, public, tag, overwrite, progress)
    return pushed


def _push(
    staged: Staged,
    pushed: Pushed,
    public: bool,
    tag: str,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> None:
    api = HfApi(library_name="cvrnet", library_version=version("cvrnet"))
    repo = pushed.repo
    pushed.url = str(with_retries(lambda: api.create_repo(repo, private=not public, exist_ok=True)))
    info = with_retries(lambda: api.model_info(repo))
    pushed.private = bool(info.private)
    if not pushed.private and not public:
        raise UserError(f"{repo} is public; --public pushes to it all the same, or choose another repository")
    start = str(info.sha)
    names = {sibling.rfilename for sibling in info.siblings or ()}
    commits = _commits_of_same_run(staged, repo, start, names, overwrite)
    if staged.folds:
        first = with_retries(lambda: api.list_repo_commits(repo))[-1].commit_id
    for done, (branch, files) in enumerate(staged.folds.items()):
        if progress:
            progress(done, len(staged.folds) + 1)
        with_retries(lambda branch=branch: api.create_branch(repo, branch=branch, revision=first, exist_ok=True))  # type: ignore[misc]
        commits[branch] = pushed.commits[branch] = _put(api, pushed, branch, files)
    pushed.commits["main"] = _put(api, pushed, "main", staged.main_files(commits), start)
    if progress:
        progress(len(staged.folds) + 1, len(staged.folds) + 1)
    if tag:
        _tag(api, repo, tag, pushed.commits["main"])


def _commits_of_same_run(staged: Staged, repo: str, commit: str, names: set[str], overwrite: bool) -> dict[str, str]:
    """Folds of the same run that the repository holds already; another run or model is not replaced unasked."""
    if RUN in names:
        path = Path(with_retries(lambda: hf_hub_download(repo, RUN, revision=commit)))
        there = Snapshot(repo, commit, path.parent)
        if _same_run(path, staged.run):
            return fold_commits(there) if staged.folds else {}
    if not overwrite and names - {_ATTRIBUTES, "README.md"}:
        raise UserError(f"{repo} holds another {'run' if RUN in names else 'model'}; --overwrite replaces it")
    return {}


def _same_run(path: Path, run: Mapping[str, Any]) -> bool:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        return {key: value for key, value in there.items() if key != COMMITS} == json.loads(json.dumps(run))
    except (ValueError, AttributeError):
        return False


def _put(api: HfApi, pushed: Pushed, branch: str, files: Files, parent: str = "") -> str:
    """Make a branch hold exactly these files, in one commit; the commit that does.

    After a failure the branch itself is asked, since the answer to a commit that was made may have been lost.
    """
    repo = pushed.repo
    head = with_retries(lambda: _head(api, repo, branch))
    parent = parent or head
    for attempt in range(1, _TRIES + 1):
        stale = _difference(api, repo, head, files)
        if stale is None:
            return head
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        try:
            return api.create_commit(
                repo, operations, commit_message=f"cvrnet push: {branch}", revision=branch, parent_commit=parent
            ).oid
        except CLIENT_ERRORS as error:
            pushed.unknown = branch
            head = with_retries(lambda: _head(api, repo, branch))
            pushed.unknown = ""
            if head != parent and _difference(api, repo, head, files) is None:
                return head
            if head != parent or attempt == _TRIES or not is_transient(error):
                raise
    raise AssertionError("unreachable")


def _head(api: HfApi, repo: str, branch: str) -> str:
    return str(api.model_info(repo, revision=branch).sha)


def _difference(api: HfApi, repo: str, commit: str, files: Files) -> list[str] | None:
    """Names that a commit holds and `files` does not; None where it holds exactly the same files."""
    entries = with_retries(lambda: list(api.list_repo_tree(repo, revision=commit, recursive=True)))
    there = {e.path: hub_hash(e) for e in entries if isinstance(e, RepoFile) and e.path != _ATTRIBUTES}
    same = there.keys() == files.keys() and all(matches(content, there[name]) for name, content in files.items())
    return None if same else sorted(there.keys() - files.keys())


def _tag(api: HfApi, repo: str, tag: str, commit: str) -> None:
    there = {t.name: t.target_commit for t in with_retries(lambda: api.list_repo_refs(repo)).tags}
    if there.get(tag, commit) != commit:
        raise UserError(
            f"the run is at {repo}, but the tag {tag} is that of an older commit ({there[tag][:8]}) and stays there; "
            "choose another tag"
        )
    with_retries(lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))


def _what_is_safe(pushed: Pushed) -> str:
    if "main" in pushed.commits:
        return "the run is there and whole, without the tag"
    there = ", ".join(pushed.commits)
    if pushed.unknown:
        return f"{there + ' arrived; ' if there else ''}whether {pushed.unknown} did is not known, each branch is whole"
    return f"{there} arrived, main is as it was" if there else "no branch was changed"
