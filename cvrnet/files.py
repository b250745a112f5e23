"""Write files atomically: make a temporary file in the same folder, sync it, and rename it. Also other file helpers."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cvrnet.errors import UserError
from cvrnet.text import sheet_cell

_NO_SPACE = os.strerror(errno.ENOSPC)
_FULL = 65536  # bytes: a disk with less free space counts as full, because a failed write can leave a little space


@contextmanager
def atomic_write(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to; if the block succeeds, that file replaces `path` in one step.

    If the block fails, or the process is killed during the block, `path` keeps its old content (or stays absent).
    Missing parent folders are made. The temporary file is hidden, ends in ``.tmp`` and is removed on failure. A killed
    process can leave it behind; nothing reads it. With ``sync=False`` a power cut soon afterwards can damage the file.
    """
    path = Path(os.path.realpath(path))  # a symbolic link stays, and its target is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with normalize_disk_errors(path):
            yield temporary
            if sync:
                _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


@contextmanager
def normalize_disk_errors(path: Path) -> Iterator[None]:
    """Add ``path`` to an OSError that the block raises, if the error names no file.

    If the disk is full, PyTorch, safetensors and NumPy raise exceptions of other types, or OSErrors without an errno.
    These exceptions are converted to OSError(ENOSPC), with ``path``.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        elif _NO_SPACE in str(error) or shutil.disk_usage(path.parent).free < _FULL:
            raise OSError(errno.ENOSPC, _NO_SPACE, str(path)) from error
        raise


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file to read its bytes, and refuse other kinds of files without waiting.

    The plain ``open`` would wait for a writer if the file is a FIFO, and reading some devices never ends.

    Raises:
        OSError: The file cannot be opened, or is a FIFO, a socket, a device or a folder.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise _not_regular(name) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    raise _not_regular(name)


def _not_regular(name: str) -> OSError:
    return OSError(errno.EINVAL, "a FIFO, socket or device; expected a regular file", name)


def write_private(path: str | Path, content: bytes, sync: bool = True) -> None:
    """Write a file that only its owner can read, atomically, into a folder that only its owner can enter.

    Missing parent folders are made so that only the owner can enter them. The umask has no effect.
    """
    path = Path(path)
    for folder in reversed(path.parents):
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
    if path.parent.stat().st_mode & 0o077:  # a folder that an earlier version made
        with suppress(PermissionError):  # the folder belongs to another user
            path.parent.chmod(0o700)
    with (
        atomic_write(path, sync) as temporary,
        open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
    ):
        temporary.chmod(0o600)
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    r"""Write text atomically, in UTF-8 with Unix line ends.

    If the text contains a file name that is not valid UTF-8, each wrong byte is written as an escape such as
    ``\udcff``. A JSON parser converts the escape back.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON atomically. NumPy numbers and arrays, and paths, are accepted.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON does not have; use None (null) for undefined values.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV for programs (UTF-8, one header line) atomically, with one row in memory at a time.

    Every text is written unchanged. Use this function for files that `cvrnet` reads again, and `write_sheet` for files
    that people open in a spreadsheet.

    None and missing keys become empty cells. Without `columns`, the header is the keys of the first row. If there
    are neither `columns` nor rows, the file is empty.

    Raises:
        ValueError: A row has a key that is not in the header.
    """
    if columns is None:
        rows = iter(rows)
        first = list(itertools.islice(rows, 1))
        columns, rows = [key for row in first for key in row], itertools.chain(first, rows)
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if columns:
            writer.writeheader()
        writer.writerows(rows)


def write_sheet(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV for spreadsheets: like `write_csv`, but `cvrnet.text.sheet_cell` makes every text safe."""
    cells = ({sheet_cell(key): sheet_cell(value) for key, value in row.items()} for row in rows)
    write_csv(path, cells, None if columns is None else [sheet_cell(name) for name in columns])


@contextmanager
def damaged_files(where: str | Path) -> Iterator[None]:
    """Raise a `UserError` if the block fails because a file of a run is damaged.

    The message names the file (`where`).
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, csv.Error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{where} is damaged, or was written by another version of cvrnet ({reason})") from error


def user_folder(kind: Literal["cache", "config"]) -> Path:
    """Return this package's folder for the user's caches or settings, in the platform's usual place."""
    if sys.platform == "win32":
        variable, folder = {"cache": ("LOCALAPPDATA", "Local"), "config": ("APPDATA", "Roaming")}[kind]
        base = Path(os.environ.get(variable) or Path.home() / "AppData" / folder)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / {"cache": "Caches", "config": "Application Support"}[kind]
    else:
        base = Path(os.environ.get(f"XDG_{kind.upper()}_HOME") or Path.home() / f".{kind}")
    return base / "cvrnet"


def image_cache_folder() -> Path:
    """Return the folder for decoded images: the environment variable CVRNET_CACHE, or ``images`` in `user_folder`."""
    chosen = os.environ.get("CVRNET_CACHE")
    return Path(chosen).expanduser() if chosen else user_folder("cache") / "images"


def slug(name: str) -> str:
    """Turn a name into a folder name that is valid on every system; different names give different results.

    >>> slug("cvrnet:p3"), slug("resnet50")
    ('cvrnet-p3-e4073420', 'resnet50')
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")
    return name if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def sync_folder(folder: Path) -> None:
    """Write the renames in a folder to the disk; on systems other than POSIX, do nothing."""
    if os.name == "posix":
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")
