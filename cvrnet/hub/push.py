"""Push a run to a repository of the Hub: each fold to its own branch, and ``main`` last."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import ModelInfo, RepoFile, SpaceInfo

from cvrnet.errors import UserError
from cvrnet.hub.merge import merge_file
from cvrnet.hub.redact import DATA_HASH, DATA_KEY
from cvrnet.hub.staging import WRITTEN, Files, Staged, stage_run
from cvrnet.hub_errors import CLIENT_ERRORS, hub_errors, is_transient, with_retries
from cvrnet.runs.hub_download import COMMITS, check_commits, hub_hash, matches, parse_reference
from cvrnet.runs.layout import CARD, RUN, fold_number

_ATTRIBUTES = ".gitattributes"  # the Hub writes it
_TITLE = "cvrnet push: "  # start of a commit's title, before the branch's name
_PICKLE = "pytorch_model.bin"  # timm pushes these weights beside model.safetensors; removed if the model is replaced
_TRIES = 3


@dataclass
class Pushed:
    """The result of a push."""

    repo: str
    url: str = ""
    private: bool = True
    commits: dict[str, str] = field(default_factory=dict)  #: branch -> commit, for the branches that were pushed
    unknown: str = ""  #: a branch whose push outcome is unknown, because the Hub did not answer
    kept: list[str] = field(default_factory=list)  #: parts of files that were kept, because somebody edited them


def push_folds(
    run: str | Path,
    repo: str,
    *,
    folds: Sequence[int] = (),
    public: bool = False,
    tag: str = "",
    with_predictions: bool = False,
    license: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Pushed:
    """Push a run: each fold to its branch, then ``main``, whose run.json records the folds' commits.

    Each branch changes in one commit or not at all. Readers find the folds' commits in ``main``, which changes last. So
    readers who load the repository during a push get the complete old run or the complete new run. If a push was
    interrupted, push again to continue it; branches that are up to date get no new commit.

    Files that this package does not write stay. Text that people wrote in the card stays, too (see `cvrnet.hub.merge`).

    Args:
        run: The folder of a cross-validation, a single or calibrated training run, or a converted checkpoint.
        repo: ``user/repo``; created if missing, private unless `public`.
        folds: Numbers of the folds to push; all if empty. Other folds of this run in the repository stay.
        public: Make a new repository public, and permit a push to a repository that is public.
        tag: A name for this state of the repository, such as ``v1.0``.
        with_predictions: Also push split.csv and predictions.csv, with hashed paths and patient ids.
        license: The Hub's name of the license. If empty, the license in an existing card stays, and a new card has
            apache-2.0.
        overwrite: Replace another run or model in the repository, and parts of this run that somebody edited.
        progress: Called before each fold's branch, and at the end, with the number of branches done and the total.

    Raises:
        UserError: The run cannot be pushed, or a request to the Hub failed. The message says what to do; after a failed
            request, it also says which branches arrived.
    """
    run = Path(run)
    repo, revision = parse_reference(repo)
    if revision:
        raise UserError(f"{repo}@{revision}: a run cannot be pushed to a revision; expected user/repo")
    if tag and (tag == "main" or fold_number(tag) or not re.fullmatch(r"[\w.-]+", tag)):
        raise UserError(f"tag {tag!r}; expected a name such as v1.0 that is not the name of a branch")
    staged = stage_run(run, repo, folds, with_predictions=with_predictions, license=license)
    pushed = Pushed(repo)
    with hub_errors(f"cannot push {run} to {repo}", lambda: _what_is_safe(pushed)):
        _push(staged, pushed, public, tag, license, overwrite, progress or (lambda done, total: None))
    return pushed


def hub_client() -> HfApi:
    """Return the Hub's client, which names this package in its requests."""
    return HfApi(library_name="cvrnet", library_version=version("cvrnet"))


def create_repository(api: HfApi, repo: str, public: bool, kind: str = "model") -> tuple[str, ModelInfo | SpaceInfo]:
    """Create a "model" or "space" repository unless it exists; return its address and info (``HfApi.repo_info``).

    Raises:
        UserError: The existing repository is public, and `public` is False.
    """
    sdk = "gradio" if kind == "space" else None
    url = with_retries(api.create_repo, repo, repo_type=kind, space_sdk=sdk, private=not public, exist_ok=True)
    info: Any = with_retries(api.repo_info, repo, repo_type=kind)
    if not info.private and not public:
        name = f"the Space {repo}" if kind == "space" else repo
        raise UserError(f"{name} is public; add --public to push to it anyway, or choose another repository")
    return str(url), info


def read_files(
    api: HfApi, repo: str, info: ModelInfo | SpaceInfo, names: Iterable[str], kind: str = "model"
) -> dict[str, bytes]:
    """Return name -> content of the files with these names, at the commit in ``info``; missing files are left out."""
    there = {sibling.rfilename for sibling in info.siblings or ()}
    found = {}
    for name in sorted(there.intersection(names)):
        path = with_retries(api.hf_hub_download, repo, name, repo_type=kind, revision=info.sha)
        found[name] = Path(path).read_bytes()
    return found


def _push(
    staged: Staged,
    pushed: Pushed,
    public: bool,
    tag: str,
    license: str,
    overwrite: bool,
    progress: Callable[[int, int], object],
) -> None:
    api, repo, total = hub_client(), pushed.repo, len(staged.folds) + 1
    pushed.url, info = create_repository(api, repo, public)
    pushed.private, start = bool(info.private), str(info.sha)
    there = read_files(api, repo, info, (RUN, CARD))
    staged, commits = _join_same_run(staged, repo, info, there, overwrite)
    card, parts = merge_file(CARD, there.get(CARD), staged.card, license=license, renew=overwrite)
    pushed.kept = [f"{CARD} ({part})" for part in parts]
    if staged.folds:
        # New branches start from the repository's first commit; otherwise they would inherit main's files.
        first = with_retries(api.list_repo_commits, repo)[-1].commit_id
    for done, (branch, files) in enumerate(staged.folds.items()):
        progress(done, total)
        with_retries(api.create_branch, repo, branch=branch, revision=first, exist_ok=True)
        commits[branch] = pushed.commits[branch] = _put(api, pushed, branch, files, overwrite, first=first)
    # The parent is main's commit before this push, so the Hub refuses the new commit if somebody else pushed meanwhile.
    files = {**staged.main_files(commits), CARD: card}
    pushed.commits["main"] = _put(api, pushed, "main", files, overwrite, parent=start)
    progress(total, total)
    if tag:
        _tag(api, repo, tag, pushed.commits["main"])


def _join_same_run(
    staged: Staged, repo: str, info: Any, there: Mapping[str, bytes], overwrite: bool
) -> tuple[Staged, dict[str, str]]:
    """Return the run to push, and the commits of its folds that the repository already holds.

    If the repository holds another run and `overwrite` is False, raise UserError. Hashes of the data set that were made
    with different keys cannot be compared. In this case, only the rest of run.json is compared, and the hash in the
    repository stays.
    """
    with suppress(ValueError, RecursionError, AttributeError):  # a damaged run.json counts as another run
        old = json.loads(there.get(RUN, b"null"))
        new = json.loads(json.dumps(staged.run))
        known, secret = old.get(DATA_KEY), {DATA_HASH, DATA_KEY}
        ignored = {COMMITS, "data", *(secret if known != new.get(DATA_KEY) else ())}
        if all(old.get(key) == new.get(key) for key in {*old, *new} - ignored):
            if known:
                staged = replace(staged, run=staged.run | {key: old[key] for key in secret if key in old})
            commits = check_commits(old.get(COMMITS, {}), f"{repo}: its {RUN}") if staged.folds else {}
            return staged, commits
    names = {sibling.rfilename for sibling in info.siblings or ()}
    if not overwrite and names & {*WRITTEN, _PICKLE}:
        raise UserError(f"{repo} holds another {'run' if RUN in names else 'model'}; --overwrite replaces it")
    return staged, {}


def _put(
    api: HfApi, pushed: Pushed, branch: str, files: Files, overwrite: bool, *, parent: str = "", first: str = ""
) -> str:
    """Commit files to a branch, and remove its other files that this package wrote; return the commit.

    Files that this package does not write stay, except in a new branch: its head is still `first`, the repository's
    first commit. The Hub's answer can be lost after the commit was made, so after a failure the branch is compared with
    the files.
    """
    repo = pushed.repo

    def find_head() -> str:
        return str(with_retries(api.model_info, repo, revision=branch).sha)

    head = find_head()
    parent = parent or head
    for attempt in range(1, _TRIES + 1):
        there = _list_hashes(api, repo, head)
        changed, surplus = _difference(there, files, everything=head == first)
        if not overwrite and head != first:
            surplus -= _check_untouched(api, repo, branch, head, there, changed - {CARD}, surplus)
        if not changed and not surplus:
            return head
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [CommitOperationDelete(name) for name in sorted(surplus)]
        title = f"{_TITLE}{branch}"
        try:
            return api.create_commit(repo, operations, commit_message=title, revision=branch, parent_commit=parent).oid
        except CLIENT_ERRORS as error:
            pushed.unknown = branch
            head = find_head()
            pushed.unknown = ""
            if head != parent and not any(_difference(_list_hashes(api, repo, head), files)):
                return head
            if head != parent or attempt == _TRIES or not is_transient(error):
                raise
    raise AssertionError("unreachable")


def _list_hashes(api: HfApi, repo: str, commit: str) -> dict[str, str]:
    """Return the Hub's hash of each file in a commit."""
    entries = with_retries(lambda: list(api.list_repo_tree(repo, revision=commit, recursive=True)))
    return {e.path: hub_hash(e) for e in entries if isinstance(e, RepoFile) and e.path != _ATTRIBUTES}


def _difference(there: Mapping[str, str], files: Files, *, everything: bool = False) -> tuple[set[str], set[str]]:
    """Return the names of the files to push (missing or different), and of the files to remove.

    The files to remove are this package's other files; with `everything`, all other files.
    """
    changed = {name for name, content in files.items() if not matches(content, there.get(name, ""))}
    return changed, {name for name in there.keys() - files.keys() if everything or name in {*WRITTEN, _PICKLE}}


def _check_untouched(
    api: HfApi, repo: str, branch: str, head: str, there: Mapping[str, str], changed: set[str], surplus: set[str]
) -> set[str]:
    """Return the files of `surplus` that others wrote; raise UserError if others changed a file that is replaced."""
    if not (changed | surplus) & there.keys():
        return set()
    history = with_retries(lambda: list(api.list_repo_commits(repo, revision=head)))
    last = next((commit.commit_id for commit in history if commit.title == f"{_TITLE}{branch}"), "")
    if last == head:
        return set()
    before = _list_hashes(api, repo, last) if last else {}
    foreign = {name for name in (changed | surplus) & there.keys() if there[name] != before.get(name)}
    if foreign & changed:
        name = min(foreign & changed)
        raise UserError(f"{repo}: somebody changed {name} of {branch} since the last push; --overwrite replaces it")
    return foreign & surplus


def _tag(api: HfApi, repo: str, tag: str, commit: str) -> None:
    there = {t.name: t.target_commit for t in with_retries(api.list_repo_refs, repo).tags}
    if there.get(tag, commit) != commit:
        older = there[tag][:8]
        raise UserError(
            f"the run was pushed to {repo}, but the tag {tag} names an older commit ({older}); choose another tag"
        )
    with_retries(api.create_tag, repo, tag=tag, revision=commit, exist_ok=True)


def _what_is_safe(pushed: Pushed) -> str:
    if "main" in pushed.commits:
        return "the run is complete on the Hub, but has no tag"
    there = ", ".join(pushed.commits)
    if pushed.unknown:
        done = f"{there} arrived; " if there else ""
        return f"{done}it is not known whether {pushed.unknown} arrived, but no branch is incomplete"
    return f"{there} arrived, main is unchanged" if there else "no branch was changed"
