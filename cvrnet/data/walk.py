"""Find the images, masks and folders below a folder, for all commands; entries that are passed over are counted."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cvrnet.data.image import is_image_file
from cvrnet.data.nifti_files import is_nifti
from cvrnet.formatting import counts
from cvrnet.text import printable

# Files and folders that operating systems create, in lower case; names that begin with a dot are skipped anyway.
_SYSTEM = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbnails", "thumbs", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
_MASKS = {
    **dict.fromkeys(("mask", "lung mask", "lungs mask"), "lung_mask"),
    **dict.fromkeys(("lesion mask", "infection mask"), "lesion_mask"),
}


@dataclass
class Found:
    """The images and masks below a folder, as POSIX paths relative to it, and counts of entries passed over."""

    images: list[str] = field(default_factory=list)  #: those directly in a folder come before those in its sub-folders
    masks: list[str] = field(default_factory=list)  #: images below a folder whose name `mask_kind` knows
    folders: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)  #: the number of entries for each reason

    def passed_over_sentence(self, folder: str | Path) -> str:
        """One line with the counts; ``""`` if nothing was passed over."""
        number = sum(self.passed_over.values())
        what = f"{number:,} {'entry' if number == 1 else 'entries'} passed over ({counts(self.passed_over)})"
        return f"{printable(str(folder))}: {what}" if number else ""


def mask_kind(folder: str) -> str:
    """``lung_mask`` or ``lesion_mask`` for the name of a folder of masks, such as ``Lung Masks``; otherwise ``""``."""
    return _MASKS.get(one_name(folder), "")


def one_name(folder: str) -> str:
    """A folder's name in lower case and singular, with blanks between its words.

    >>> one_name("Lung_Masks"), one_name("images")
    ('lung mask', 'image')
    """
    return folder.lower().replace("_", " ").replace("-", " ").strip().removesuffix("s")


def _raise(error: OSError) -> None:
    raise error


def walk(root: Path, on_error: Callable[[OSError], object] = _raise, *, volumes: bool = False) -> Found:
    """Find the images below a folder; with ``volumes``, NIfTI files count as images.

    Symbolic links are followed, except to a folder that contains this one. Each folder is read once, real folders
    before links. ``on_error`` is called for a folder or file that cannot be read; by default, it raises the error.
    """
    found = Found()
    above = {_identity(folder) for folder in Path(os.path.realpath(root)).parents if os.access(folder, os.F_OK)}
    seen: set[tuple[int, int]] = set()
    real, linked = deque([""]), deque[str]()
    while real or linked:
        prefix = (real or linked).popleft()
        try:
            identity = _identity(root / prefix)
            with os.scandir(root / prefix) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            on_error(error)
            continue
        if identity in seen or identity in above:
            found.passed_over["a link to a folder above or read before"] += 1
            continue
        seen.add(identity)
        if prefix:
            found.folders.append(prefix.removesuffix("/"))
        inside: list[str] = []
        for entry in listed:
            name = prefix + entry.name
            try:
                volume = volumes and is_nifti(entry.name) and entry.is_file()
                reason = "" if volume and not entry.name.startswith(".") else _passed_over(entry)
                if reason:
                    found.passed_over[reason] += 1
                elif entry.is_dir():
                    (linked if entry.is_symlink() else inside).append(f"{name}/")
                else:
                    (found.masks if any(map(mask_kind, prefix.split("/"))) else found.images).append(name)
            except OSError as error:
                on_error(error)
        real.extendleft(reversed(inside))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _passed_over(entry: os.DirEntry[str]) -> str:
    """Why an entry of a folder is passed over; ``""`` for a folder to read, and for an image."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name.lower() in _SYSTEM:
        return "a file of the operating system"
    try:
        mode = entry.stat().st_mode
    except OSError:
        if entry.is_symlink():
            return "a broken link"
        raise
    if stat.S_ISDIR(mode):
        return ""
    if not stat.S_ISREG(mode):
        return "a FIFO, socket or device"
    return "" if is_image_file(entry.path) else "not an image"
