"""What the Hub calls a file's content by: SHA-256 of large files, git's hash of small ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub.hf_api import RepoFile


def hub_hash(entry: RepoFile) -> str:
    """The hash that the Hub lists for a file."""
    return str(entry.lfs.sha256) if entry.lfs else entry.blob_id


def matches(content: Path | bytes, expected: str) -> bool:
    """Whether a file has the hash that the Hub lists."""
    return file_hash(content, git=len(expected) == 40) == expected


def file_hash(content: Path | bytes, *, git: bool = False) -> str:
    """SHA-256, or with ``git`` the hash that git calls a file's content by.

    >>> file_hash(b"hello", git=True)
    'b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0'
    """
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    digest = hashlib.sha1(b"blob %d\0" % size) if git else hashlib.sha256()  # git's, not a matter of security
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
