"""The storage of a Hugging Face Hub: repositories with branches, tags and commits, and their large files."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path

LARGE = (".safetensors", ".bin", ".png")
"""What goes through LFS or Xet; everything else is a small file in git."""
USER, OTHER = "ada", "mallory"
TOKENS = {"hf_write": (USER, "write"), "hf_read": (USER, "read"), "hf_other": (OTHER, "write")}


@dataclass(frozen=True)
class File:
    """One file of a commit; the content of a large file may be only in Xet's storage."""

    sha256: str
    size: int
    content: bytes | None
    large: bool

    @classmethod
    def of(cls, name: str, content: bytes) -> File:
        return cls(hashlib.sha256(content).hexdigest(), len(content), content, name.endswith(LARGE) and bool(content))

    @property
    def blob_id(self) -> str:
        """The git blob id of the file; for a large file, of its pointer."""
        return git_hash(f"oid sha256:{self.sha256}\nsize {self.size}\n".encode() if self.large else self.content or b"")

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    parent: str | None
    files: dict[str, File]


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def history(self, commit: Commit) -> list[Commit]:
        """Return the commit and all earlier commits, newest first."""
        line = [commit]
        while parent := line[-1].parent:
            line.append(self.commits[parent])
        return line


class Storage:
    """Repositories in memory; Xet's storage is a folder to which the client itself writes."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self._numbers = itertools.count(secrets.randbits(32))  # no commit is that of another hub

    def create(self, repo_id: str, *, private: bool = False) -> Repository:
        repository = self.repositories[repo_id] = Repository(private)
        self.commit(repo_id, "main", "initial commit", {".gitattributes": File.of(".gitattributes", b"*.bin lfs\n")})
        return repository

    def commit(self, repo_id: str, branch: str, title: str, files: dict[str, File]) -> Commit:
        """Add a commit with exactly these files to a branch, and return the commit."""
        repository = self.repositories[repo_id]
        parent = repository.branches.get(branch)
        if parent and repository.commits[parent].files == files:
            return repository.commits[parent]
        content = repr((next(self._numbers), parent, title, sorted((name, file.etag) for name, file in files.items())))
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), title, parent, dict(files))
        repository.commits[commit.id] = commit
        repository.branches[branch] = commit.id
        return commit


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def xet_hashes(folder: Path) -> dict[str, str]:
    """Return SHA-256 -> Xet's own hash, for every file that hf_xet wrote to a local storage (from its shard files)."""
    found = {}
    for path in folder.glob("xet/xorbs/shards/*.mdb"):
        records = [path.read_bytes()[i : i + 48] for i in range(48, path.stat().st_size, 48)]
        while records and records[0][:32] != b"\xff" * 32:  # a file: header, segments, their checks, metadata
            header = records.pop(0)
            flags, segments = (int.from_bytes(header[i : i + 4], "little") for i in (32, 36))
            checked, described = flags >> 31 & 1, flags >> 30 & 1
            del records[: segments * (1 + checked)]
            if described:
                found[_as_hex(records.pop(0)[:32])] = _as_hex(header[:32])
    return found


def _as_hex(digest: bytes) -> str:
    """Format a hash as Xet does: as four little-endian words."""
    return "".join(digest[i : i + 8][::-1].hex() for i in range(0, 32, 8))
