"""Write result folders: one process at a time writes a folder, and only a complete new folder replaces an old one.

While a command writes the folder ``RUN``, there are hidden entries beside ``RUN``. The file ``.RUN.cvrnet-lock`` names
the process that writes. ``.RUN.cvrnet-new`` is the new folder while it is made. ``.RUN.cvrnet-old`` is the old folder
while the new folder takes its place.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import sync_folder

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl: Any = None

_held: set[int] = set()  # descriptors of the locks of this process


def real_folder(folder: str | Path) -> Path:
    """Return a folder's absolute path with symbolic links resolved, so that a replacement leaves the links in place."""
    return Path(os.path.realpath(folder))


def new_folder(folder: Path) -> Path:
    """Return the path of the hidden new folder that will replace a folder."""
    return folder.with_name(f".{folder.name}.cvrnet-new")


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.cvrnet-old")


def entries(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, without locks and unfinished files; [] if the folder is missing."""
    if not folder.is_dir():
        return []
    passing = re.compile(r"\..*(\.tmp|\.cvrnet-lock)")
    return sorted(path for path in folder.iterdir() if not passing.fullmatch(path.name))


def can_be_renamed(folder: Path) -> bool:
    """Return whether a folder can be renamed: it is not a mount point, and its parent folder is writable."""
    return not os.path.ismount(folder) and os.access(folder.parent, os.W_OK)


def check_renamable(folder: Path) -> None:
    """Raise UserError if a folder cannot be renamed, and therefore cannot be replaced."""
    if not can_be_renamed(folder):
        raise UserError(
            f"{folder} is a mount point, or its parent folder is not writable; choose a folder inside {folder}"
        )


def check_replaceable(folder: Path, known: Callable[[Path], bool]) -> None:
    """Raise UserError if a folder cannot be renamed, or holds an entry for which ``known`` returns False.

    ``known`` gets the path of each file or folder, and returns whether this library writes such an entry.
    """
    check_renamable(folder)
    if foreign := [path.name for path in entries(folder) if not known(path)]:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{folder} holds {foreign[0]}{more}; --overwrite would remove this, although it is not part of the result; "
            "move it out of the folder, or choose another folder"
        )


@contextmanager
def made_aside(folder: Path, keep: Callable[[Path], bool] = lambda new: False) -> Iterator[Path]:
    """Context manager: the block writes a new hidden folder; if the block succeeds, this folder replaces `folder`.

    ``as`` gives the path of the new folder. The block creates the new folder, unless an earlier call has left it there.
    `folder` may hold an earlier result. If the block fails, `folder` does not change, and the new folder is removed.
    But if ``keep``, called with the new folder, returns True, the new folder stays, and the block of a later call can
    continue the work in it.
    """
    new = new_folder(folder)
    try:
        yield new
        _replace(folder)
    except BaseException:
        if not keep(new):
            shutil.rmtree(new, ignore_errors=True)
        raise


def _replace(folder: Path) -> None:
    """Move the old folder away and the new folder into its place.

    If the process is killed in between, a later call of `recover` completes the replacement.
    """
    old = _old_folder(folder)
    try:
        if folder.exists():
            folder.rename(old)
        _finish(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)  # if this is interrupted, `recover` removes the rest


def _finish(folder: Path) -> None:
    new_folder(folder).rename(folder)
    sync_folder(folder.parent)  # the rename must be on the disk before the old folder is removed


def recover(folder: Path) -> None:
    """Complete an interrupted replacement of a folder; if no replacement was interrupted, do nothing.

    The old folder is moved away only after the new folder is complete. So if `folder` is missing, the hidden new folder
    becomes `folder`; if there is no new folder, the old folder is moved back. A replaced old folder is removed.
    """
    old = _old_folder(folder)
    if not old.is_dir():
        return
    if not folder.exists():
        if new_folder(folder).is_dir():
            _finish(folder)
        else:
            old.rename(folder)
            return
    shutil.rmtree(old)


def find_folder(folder: str | Path) -> Path:
    """Return the path of a folder to read from; an interrupted replacement of the folder is completed first."""
    path = real_folder(folder)
    if not path.exists() and _old_folder(path).is_dir():
        with lock_folder(path):
            recover(path)
    return Path(folder)


@contextmanager
def files_aside(folder: Path, may_replace: Callable[[str], bool], first: str) -> Iterator[Path]:
    """Give a new folder to write files to; if the block succeeds, each file is renamed into `folder`.

    The file ``first`` is renamed first, because it marks the folder as a result: if the process is killed between two
    renames, a repeated job recognises the result and may replace its files. All other files in the folder stay. If the
    block fails, nothing is changed.

    Raises:
        UserError: `folder` already has a file with the name of a new file, and ``may_replace(name)`` returned False:
            the existing file is not part of an earlier result. The name is relative to the folder.
    """
    folder = real_folder(folder)
    with lock_folder(folder):
        missing = [] if folder.exists() else [folder]
        folder.mkdir(exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside:
                yield Path(aside)
                files = [path.relative_to(aside) for path in Path(aside).rglob("*") if path.is_file()]
                files.sort(key=lambda name: (name.as_posix() != first, name))
                for name in files:
                    if os.path.lexists(folder / name) and not may_replace(name.as_posix()):
                        raise UserError(
                            f"{folder / name} exists and is not part of an earlier result; choose another folder"
                        )
                for name in files:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (Path(aside) / name).replace(folder / name)
        finally:
            _remove_empty(missing)


@contextmanager
def lock_folder(folder: Path, part: str = "", *, shared: bool = False) -> Iterator[None]:
    """Lock a folder, or only the entry ``part`` in it (such as a fold's folder), against writing by other processes.

    The folder and the entry need not exist.
    Several processes can hold a ``shared`` lock on one folder. The operating system releases the lock when the process
    ends, even if it is killed, so an old lock file locks nothing. On Windows, and on file systems without locks,
    nothing is locked.

    Raises:
        UserError: Another process holds the lock; the message names the process and its host.
    """
    if fcntl is None:
        yield
        return
    missing = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The lock file is inside the folder if the parent folder is not writable: the folder may be a container's volume.
    inside = folder.is_dir() and not os.access(folder.parent, os.W_OK)
    name = ".".join(["", *([] if inside else [folder.name]), *filter(None, [part]), "cvrnet-lock"])
    path = (folder if inside else folder.parent) / name
    try:
        descriptor = _lock(path, folder / part, shared)
        try:
            yield
        finally:
            _release(descriptor, path)
    finally:
        _remove_empty(missing)


def _lock(path: Path, what: Path, shared: bool) -> int:
    """Open and lock a file, and write the name of this process into it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            note = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            holder = "".join(filter(str.isprintable, note)) or "another process"
            raise UserError(
                f"{what} is in use by {holder}; wait until it has ended, or choose another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        _held.add(descriptor)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            with suppress(OSError):  # on a full disk, the lock file stays empty
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        _close(descriptor)  # another process removed the file after we opened and before we locked it


def _release(descriptor: int, path: Path) -> None:
    if descriptor not in _held:  # this is a fork of the process that locked
        return
    with suppress(OSError):  # raised if other processes share the lock: the file stays
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    _close(descriptor)


def _close(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _close_inherited() -> None:
    """Release all locks in a forked process, so that it does not keep them after the parent process is killed."""
    for descriptor in list(_held):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that are empty, the innermost first."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
