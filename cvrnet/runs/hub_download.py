"""``hf-hub:user/repo[@revision]``: from the reference to verified files in the client's cache.

A branch is resolved to a commit once, and everything else is read at commits: configuration and weights are always of
the same push. ``main`` of a pushed run records the commits of its folds in run.json, so one commit names a whole run.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from cvrnet.errors import UserError
from cvrnet.runs.hub_errors import CLIENT_ERRORS, explain, hub_errors, is_transient, with_retries
from cvrnet.runs.hub_hashes import hub_hash, matches
from cvrnet.runs.layout import CONFIG, RUN, WEIGHTS

CHECKPOINT = (CONFIG, WEIGHTS)
COMMITS = "commits"
"""The key of run.json: each fold's branch and commit."""

_SCHEMES = ("hf-hub:", "hf_hub:")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^@\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLD = re.compile(r"fold-[1-9]\d*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TIMEOUT = 10.0
_log = logging.getLogger("cvrnet.hub")


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit, in the client's cache.

    Attributes:
        repo: ``user/repo``.
        commit: 40 hexadecimal digits.
        folder: Where the files are; other files may be there too.
        stale: Why the Hub could not be asked whether this is the newest commit; "" where it was.
    """

    repo: str
    commit: str
    folder: Path
    stale: str = ""


def is_reference(model: str | Path) -> bool:
    """Whether a MODEL argument means a repository on the Hub."""
    return str(model).startswith(_SCHEMES)


def parse_reference(reference: str) -> tuple[str, str | None]:
    """Repository and revision.

    >>> parse_reference("hf-hub:user/repo@fold-3"), parse_reference("user/repo")
    (('user/repo', 'fold-3'), ('user/repo', None))

    Raises:
        UserError: It is no reference.
    """
    text = reference
    for scheme in _SCHEMES:
        text = text.removeprefix(scheme)
    parts = _REFERENCE.fullmatch(text)
    if parts is None:
        raise UserError(f"{reference!r} names no repository; expected user/repo, or user/repo@revision")
    return parts["repo"], parts["revision"]


def hub_checkpoints(reference: str, folds: Sequence[int] = ()) -> list[Path]:
    """The checkpoint folders that a reference means: all folds of a pushed run, or the model of a revision.

    Args:
        reference: ``user/repo[@revision]``, with or without ``hf-hub:``.
        folds: Of a pushed run, only these.

    Returns:
        Folders in the client's cache, each at one commit, each file checked against its hash.

    Raises:
        UserError: The repository cannot be had or holds no model that is safe to read.
    """
    run = open_revision(reference)
    commits = choose_commits(run, folds).values() or [run.commit]
    return [fetch(run.repo, commit, CHECKPOINT, required=CHECKPOINT).folder for commit in commits]


def hub_checkpoint(reference: str) -> Path:
    """The one checkpoint of a revision itself: of a pushed run, its best fold.

    Raises:
        UserError: As :func:`hub_checkpoints`.
    """
    run = open_revision(reference)
    return fetch(run.repo, run.commit, CHECKPOINT, required=CHECKPOINT).folder


def open_revision(reference: str) -> Snapshot:
    """Resolve a reference to a commit; run.json is fetched with it, if there is one.

    Where the Hub cannot be asked, the newest commit in the cache is taken, and a warning says which and why.

    Raises:
        UserError: It cannot be had.
    """
    repo, revision = parse_reference(reference)
    snapshot = fetch(repo, revision, (RUN, CONFIG))
    if snapshot.stale:
        _log.warning("%s: %s; from the cache: commit %s", reference, snapshot.stale, snapshot.commit)
    else:
        _log.info("%s: commit %s", reference, snapshot.commit)
    return snapshot


def fold_commits(run: Snapshot) -> dict[str, str]:
    """Each fold's commit (``{"fold-1": "…"}``) as recorded in run.json; empty where the revision is a single model.

    Raises:
        UserError: run.json is none.
    """
    path = run.folder / RUN
    if not path.is_file():
        return {}
    try:
        commits = json.loads(path.read_text(encoding="utf-8")).get(COMMITS, {})
        good = all(_FOLD.fullmatch(name) and _COMMIT.fullmatch(commit) for name, commit in commits.items())
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise UserError(f"{run.repo} has a {RUN} that is not of a run of cvrnet (commit {run.commit})")
    return dict(sorted(commits.items(), key=lambda item: int(item[0].removeprefix("fold-"))))


def choose_commits(run: Snapshot, folds: Sequence[int]) -> dict[str, str]:
    """The commits of the folds that are wanted; all where none is named.

    Raises:
        UserError: There is no such fold.
    """
    commits = fold_commits(run)
    names = [f"fold-{fold}" for fold in folds]
    if missing := [name for name in names if name not in commits]:
        there = ", ".join(commits) or "none: it is one model"
        raise UserError(f"{run.repo} has no {missing[0]}; expected some of {there}")
    return {name: commits[name] for name in dict.fromkeys(names)} or commits


def fetch(repo: str, revision: str | None, patterns: Sequence[str], required: Sequence[str] = ()) -> Snapshot:
    """Download files of one commit, or take them from the cache, and check each against its hash.

    Args:
        repo: ``user/repo``.
        revision: Branch, tag or commit; ``main`` if None.
        patterns: Names of the files.
        required: Those that must be there.

    Raises:
        UserError: They cannot be had; the cache holds whole files only, so a repeated call goes on.
    """
    shown = f"{repo}@{revision}" if revision else repo
    with hub_errors(f"cannot load {shown}", lambda: "nothing was changed"):
        snapshot = _download(repo, revision or "main", list(patterns))
        _refuse_missing(snapshot, required)
        _verify(snapshot, patterns)
    return snapshot


def _download(repo: str, revision: str, patterns: list[str]) -> Snapshot:
    def download(commit: str) -> str:
        return snapshot_download(repo, revision=commit, allow_patterns=patterns)

    if _COMMIT.fullmatch(revision):
        return Snapshot(repo, revision, Path(with_retries(lambda: download(revision))))
    try:
        commit = str(with_retries(lambda: HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT)).sha)
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and not is_transient(error):
            raise
        try:
            cached = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        return Snapshot(repo, cached.name, cached, _reason(error))
    folder = Path(with_retries(lambda: download(revision)))  # by name, so that the cache knows the name when offline
    if folder.name != commit:  # a push came in between
        folder = Path(with_retries(lambda: download(commit)))
    return Snapshot(repo, commit, folder)


def _reason(error: BaseException) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "offline (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answered HTTP {error.response.status_code}"
    return f"the Hub cannot be reached ({type(error).__name__})"


def _refuse_missing(snapshot: Snapshot, required: Sequence[str]) -> None:
    missing = [name for name in required if not (snapshot.folder / name).is_file()]
    if not missing:
        return
    names = with_retries(lambda: HfApi().list_repo_files(snapshot.repo, revision=snapshot.commit))
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if WEIGHTS in missing and pickles:
        raise UserError(
            f"{snapshot.repo} has its weights only as a pickle ({pickles[0]}), which can run any code when it is read; "
            f"only {WEIGHTS} is read: ask its owner for it"
        )
    raise UserError(f"{snapshot.repo} holds no model at commit {snapshot.commit}: it has no {missing[0]}")


def _verify(snapshot: Snapshot, patterns: Sequence[str]) -> None:
    """Compare each file's hash with the Hub's; a damaged file is downloaded anew."""
    files = sorted({path for pattern in patterns for path in snapshot.folder.glob(pattern) if path.is_file()})
    names = [path.relative_to(snapshot.folder).as_posix() for path in files]
    expected = _recorded_hashes(snapshot, names)
    for name in names:
        if matches(snapshot.folder / name, expected[name]):
            continue
        _log.warning("%s: %s in the cache is damaged; it is downloaded anew", snapshot.repo, name)
        if not (snapshot.folder / name).is_symlink():
            (snapshot.folder / name).unlink()  # the client replaces the blob that it would be a link to
        try:
            path = with_retries(
                lambda name=name: hf_hub_download(  # type: ignore[misc]
                    snapshot.repo, name, revision=snapshot.commit, force_download=True
                )
            )
        except CLIENT_ERRORS as error:
            raise UserError(
                f"{snapshot.folder / name} is damaged (its hash is not the Hub's {expected[name]}) and the Hub cannot "
                f"be asked for it ({explain(error)[0]}); it is not used; repeat the command when it can"
            ) from error
        if not matches(Path(path), expected[name]):
            raise UserError(
                f"{snapshot.repo}: {name} arrived damaged (its hash is not the Hub's {expected[name]}); "
                "it is not used; repeat the command"
            )


def _recorded_hashes(snapshot: Snapshot, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of large files, git's hash of small ones: in the cache, the name of the blob that a file is a link to."""
    hashes = {}
    for name in names:
        path = snapshot.folder / name
        blob = Path(os.readlink(path)).name if path.is_symlink() else ""
        if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob):
            hashes[name] = blob
    if unknown := [name for name in names if name not in hashes]:  # a file system without links
        entries = with_retries(lambda: HfApi().get_paths_info(snapshot.repo, unknown, revision=snapshot.commit))
        hashes |= {entry.path: hub_hash(entry) for entry in entries if isinstance(entry, RepoFile)}
    return hashes
