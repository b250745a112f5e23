"""Hashes of files as the Hub lists them: SHA-256 of large files, git's hash of small ones."""

from __future__ import annotations

import io
from pathlib import Path

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj


def hub_hash(entry: RepoFile) -> str:
    """The hash that the Hub lists for a file."""
    return str(entry.lfs.sha256) if entry.lfs else entry.blob_id


def matches(content: Path | bytes, expected: str) -> bool:
    """Whether a file has the hash that the Hub lists."""
    return file_hash(content, git=len(expected) == 40) == expected


def file_hash(content: Path | bytes, *, git: bool = False) -> str:
    """SHA-256 of a file, or with ``git`` the hash by which git names its content.

    >>> file_hash(b"hello", git=True)
    'b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0'
    """
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return git_hash(file.read()) if git else sha_fileobj(file).hex()
