"""Download the files of ``hf-hub:user/repo[@revision]`` into the cache of huggingface_hub, and check them.

A branch is resolved to a commit once, and all its files are then read from this commit. So configuration and weights
always come from one push. On the branch ``main`` of a pushed run, run.json records the commits of all folds, so one
commit identifies the whole run.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from cvrnet.errors import UserError
from cvrnet.hub_errors import CLIENT_ERRORS, explain, hub_errors, is_transient, with_retries
from cvrnet.runs.layout import CONFIG, NOVELTY, RUN, SEGMENTER, WEIGHTS, fold_name, fold_number
from cvrnet.runs.read import read_json

CHECKPOINT = (CONFIG, WEIGHTS)
MODEL_FILES = (*CHECKPOINT, NOVELTY, SEGMENTER)  # the last two files are optional
COMMITS = "commits"  # the key of run.json that holds each fold's branch and commit

_SCHEMES = ("hf-hub:", "hf_hub:")
_NAME = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?:{'|'.join(_SCHEMES)})?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^@\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_NO_USERS = (
    "datasets",
    "buckets",
    "collections",
    "papers",
    "docs",
    "blog",
)  # first parts of addresses on the Hub that are not users
_TIMEOUT = 10.0
_log = logging.getLogger("cvrnet.hub")


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit in the cache of huggingface_hub; the commit's folder may contain other files, too."""

    repo: str
    commit: str
    folder: Path
    stale: str = ""  #: why this may not be the newest commit of the branch; "" if it is, or if a commit was requested


def is_reference(model: str | Path) -> bool:
    """Return whether a MODEL argument names a repository on the Hub (``hf-hub:``)."""
    return str(model).startswith(_SCHEMES)


def hint(text: str | Path) -> str:
    """Return the end of an error message that suggests an ``hf-hub:`` reference; "" if the text names no repository.

    >>> hint("https://huggingface.co/me/chest/tree/fold-2"), hint("runs/2024/folds")
    ('; for a repository on the Hugging Face Hub: hf-hub:me/chest@fold-2', '')
    """
    hosts = "|".join(map(re.escape, (*_HOSTS, urlsplit(constants.ENDPOINT).netloc)))
    place = rf"(?:hf:/+|(?:https?:/+)?(?:{hosts})/)(?:models/|spaces/)?(?P<repo>{_NAME}/{_NAME})(?:@(?P<at>[^/@\s]+))?"
    page = r"(?:/(?:tree|blob|resolve|raw|commit)/(?P<revision>[^/?#\s]+))?(?:[/?#].*)?"
    found = re.fullmatch(rf"(?:{'|'.join(_SCHEMES)})?{place}{page}", str(text)) or _REFERENCE.fullmatch(str(text))
    if not found or found["repo"].partition("/")[0] in _NO_USERS:
        return ""
    revision = unquote(found["revision"] or found.groupdict().get("at") or "main")
    meant = found["repo"] if revision == "main" else f"{found['repo']}@{revision}"
    return f"; for a repository on the Hugging Face Hub: {_SCHEMES[0]}{meant}"


def parse_reference(reference: str) -> tuple[str, str | None]:
    """Split a reference into repository and revision; raise UserError if the text is not a reference.

    >>> parse_reference("hf-hub:user/repo@fold-3"), parse_reference("user/repo")
    (('user/repo', 'fold-3'), ('user/repo', None))
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        meant = hint(reference)
        raise UserError(f"{reference!r} does not name a repository; expected user/repo, or user/repo@revision{meant}")
    return parts["repo"], parts["revision"]


def hub_checkpoints(reference: str, folds: Sequence[int] = ()) -> list[Path]:
    """Download the models of a reference (all folds of a pushed run, or one model), and return their folders.

    The reference is ``user/repo[@revision]``, with or without ``hf-hub:``. ``folds`` are the numbers of the folds; an
    empty sequence means all folds. The folders are in the cache of huggingface_hub, each at one commit. The hash of
    each file is checked.

    Raises:
        UserError: The repository cannot be downloaded, or has no model that is safe to read.
    """
    run = open_revision(reference)
    commits = fold_commits(run, folds).values() or [run.commit]
    return [fetch(run.repo, commit, MODEL_FILES, required=CHECKPOINT).folder for commit in commits]


def hub_checkpoint(reference: str) -> Path:
    """Download and return one revision's checkpoint folder; ``main`` of a pushed run holds its best fold.

    Raises the same errors as `hub_checkpoints`.
    """
    run = open_revision(reference)
    return fetch(run.repo, run.commit, MODEL_FILES, required=CHECKPOINT).folder


def open_revision(reference: str) -> Snapshot:
    """Resolve a reference to a commit, and fetch the commit's run.json and config.json if they exist.

    If the Hub does not answer, the newest commit in the cache is used, and a warning names the commit and the reason.
    Raises the same errors as `fetch`.
    """
    repo, revision = parse_reference(reference)
    snapshot = fetch(repo, revision, (RUN, CONFIG))
    if snapshot.stale:
        _log.warning("%s: %s; using commit %s from the cache", reference, snapshot.stale, snapshot.commit)
    else:
        _log.info("%s: commit %s", reference, snapshot.commit)
    return snapshot


def fold_commits(run: Snapshot, folds: Sequence[int] = ()) -> dict[str, str]:
    """Return each fold's commit (``{"fold-1": "…"}``) from run.json; empty if the revision is a single model.

    With ``folds``, return only the commits of these folds, in this order.

    Raises:
        UserError: run.json is damaged, or does not record one of ``folds``.
    """
    path = run.folder / RUN
    found = read_json(path).get(COMMITS, {}) if path.is_file() else {}
    commits = check_commits(found, f"{run.repo}: {RUN} of commit {run.commit}")
    names = [fold_name(fold) for fold in folds] or sorted(commits, key=lambda name: fold_number(name) or 0)
    if missing := [name for name in names if name not in commits]:
        expected = f"expected some of {', '.join(commits)}" if commits else "it holds one model, so leave the fold out"
        raise UserError(f"{run.repo} has no {missing[0]}; {expected}")
    return {name: commits[name] for name in names}


def check_commits(commits: Any, where: str) -> dict[str, str]:
    """Return the folds' commits from an untrusted run.json, after a check: they become folder names and addresses."""
    if not isinstance(commits, dict) or not all(
        fold_number(name) and isinstance(commit, str) and _COMMIT.fullmatch(commit) for name, commit in commits.items()
    ):
        raise UserError(f"{where} was not written by cvrnet")
    return commits


def fetch(repo: str, revision: str | None, patterns: Sequence[str], required: Sequence[str] = ()) -> Snapshot:
    """Download files of one commit, or find them in the cache, and check each file's hash.

    After a failed download, the next call takes complete files from the cache and downloads only the others.

    Args:
        repo: ``user/repo``.
        revision: A branch or a commit; None means ``main``.
        patterns: File names; ``*`` stands for any text.
        required: Names of files that the commit must have.

    Raises:
        UserError: The Hub does not answer and the files are not in the cache; or a file is damaged, or a required file
            is missing.
    """
    shown = f"{repo}@{revision}" if revision else repo
    with hub_errors(f"cannot load {shown}", lambda: "nothing was changed"):
        snapshot = _download(repo, revision or "main", list(patterns))
        if missing := [name for name in required if not (snapshot.folder / name).is_file()]:
            raise UserError(
                f"{repo} holds no model at commit {snapshot.commit}: it has no {missing[0]} "
                "(only JSON and safetensors files are read, because reading a pickle file can run any code)"
            )
        _verify(snapshot, patterns)
    return snapshot


def _download(repo: str, revision: str, patterns: list[str]) -> Snapshot:
    def download(wanted: str, offline: bool = False) -> Path:
        return Path(snapshot_download(repo, revision=wanted, allow_patterns=patterns, local_files_only=offline))

    if _COMMIT.fullmatch(revision):
        try:
            return Snapshot(repo, revision, with_retries(download, revision))
        except LocalEntryNotFoundError as error:
            if constants.HF_HUB_OFFLINE:
                raise _not_in_cache(repo, revision, error) from error
            raise
    try:
        commit = str(with_retries(HfApi().model_info, repo, revision=revision, timeout=_TIMEOUT).sha)
    except (HTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, HfHubHTTPError) and not is_transient(error):
            raise
        try:
            cached = download(revision, offline=True)
        except LocalEntryNotFoundError:
            raise _not_in_cache(repo, revision, error) from error
        return Snapshot(repo, cached.name, cached, stale=explain(error)[0])
    folder = with_retries(download, revision)  # by branch name, so that the cache can later resolve the name offline
    if folder.name != commit:  # somebody pushed in between
        folder = with_retries(download, commit)
    return Snapshot(repo, commit, folder)


def _not_in_cache(repo: str, revision: str, error: Exception) -> UserError:
    what, advice = explain(error)
    return UserError(
        f"cannot load {repo}@{revision}: its files are not in the cache {constants.HF_HUB_CACHE}, and {what}; "
        f"nothing was changed; set HF_HOME to a cache that has these files, or {advice}"
    )


def _verify(snapshot: Snapshot, patterns: Sequence[str]) -> None:
    """Compare each file's hash with the Hub's, and download a damaged file again.

    This is needed because huggingface_hub compares only sizes, and never replaces a damaged file in its cache.
    """
    files = {path for pattern in patterns for path in snapshot.folder.glob(pattern) if path.is_file()}
    names = sorted(path.relative_to(snapshot.folder).as_posix() for path in files)
    for name, expected in _expected_hashes(snapshot, names).items():
        path = snapshot.folder / name
        if matches(path, expected):
            continue
        _log.warning("%s: %s in the cache is damaged; it is downloaded again", snapshot.repo, name)
        if not path.is_symlink():
            path.unlink()  # huggingface_hub would replace the target of a link, but not a regular file
        try:
            with_retries(hf_hub_download, snapshot.repo, name, revision=snapshot.commit, force_download=True)
        except CLIENT_ERRORS as error:
            raise UserError(
                f"{path} is damaged (its hash is not the Hub's {expected}) and cannot be downloaded again "
                f"({explain(error)[0]}); the file is not used; repeat the command when the Hub can be reached"
            ) from error
        if not matches(path, expected):
            raise UserError(f"{snapshot.repo}: {name} arrived damaged (its hash is not {expected}); repeat the command")


def _expected_hashes(snapshot: Snapshot, names: Sequence[str]) -> dict[str, str]:
    """Return the hash of each file: the name of the blob that the file links to, otherwise the hash that the Hub lists.

    For a file that the Hub does not list, the hash is "", which matches no file.
    """
    links = {name: snapshot.folder / name for name in names if (snapshot.folder / name).is_symlink()}
    hashes = {name: Path(os.readlink(path)).name for name, path in links.items()}
    hashes = {name: blob for name, blob in hashes.items() if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", blob)}
    if unknown := [name for name in names if name not in hashes]:  # for example, because the file system has no links
        entries = with_retries(HfApi().get_paths_info, snapshot.repo, unknown, revision=snapshot.commit)
        hashes |= {entry.path: hub_hash(entry) for entry in entries if isinstance(entry, RepoFile)}
    return {name: hashes.get(name, "") for name in names}


def hub_hash(entry: RepoFile) -> str:
    """Return the hash that the Hub lists for a file: SHA-256 of large files, git's hash of small files."""
    return str(entry.lfs.sha256) if entry.lfs else entry.blob_id


def matches(content: Path | bytes, expected: str) -> bool:
    """Return whether a file has the hash that the Hub lists."""
    return file_hash(content, git=len(expected) == 40) == expected


def file_hash(content: Path | bytes, *, git: bool = False) -> str:
    """Return the SHA-256 of a file or, with ``git``, the hash by which git identifies its content.

    >>> file_hash(b"hello", git=True)
    'b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0'
    """
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return git_hash(file.read()) if git else sha_fileobj(file).hex()
