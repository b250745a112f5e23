"""Find the images, masks and folders below a folder, for all commands; entries that are passed over are counted."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cvrnet.data.image import is_image_file
from cvrnet.data.nifti_files import is_nifti
from cvrnet.formatting import count, counts
from cvrnet.text import camel_case_words, printable

# Files and folders that operating systems create, in lower case; names that begin with a dot are skipped anyway.
_SYSTEM = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "thumbnails", "thumbs", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}
_LUNGS, _LESIONS = {"lung", "lungs"}, {"lesion", "lesions", "infection", "infections", "opacity", "opacities"}
_MASK_WORDS = {
    *("mask", "masks", "seg", "segs", "segmentation", "segmentations", "annotation", "annotations", "groundtruth"),
}
_MASK_NAMES = {"label", "ground truth", "gt", "manual mask"}  # whole names, as `one_name` gives them
_IMAGE_NAMES = {"image", "img", "picture"}
_MASK_ENDING = re.compile(
    r"[ _-]?(?:lungs?|lesions?|infections?)?[ _-](?:mask|seg|segmentation)s?([ _-]?\d+)?$", re.IGNORECASE
)


@dataclass
class Found:
    """The images and masks below a folder, as POSIX paths relative to it, and counts of entries passed over."""

    images: list[str] = field(default_factory=list)  #: images in a folder come before images in its sub-folders
    masks: list[str] = field(default_factory=list)  #: in a folder that `mask_kind` recognises, or beside their image
    folders: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)  #: the number of entries for each reason

    def passed_over_sentence(self, folder: str | Path) -> str:
        """Return one line with the counts; ``""`` if nothing was passed over."""
        number = sum(self.passed_over.values())
        what = f"{count(number, 'entry', 'entries')} passed over ({counts(self.passed_over)})"
        return f"{printable(str(folder))}: {what}" if number else ""


def mask_kind(folder: str) -> str:
    """Return the kind of masks that a folder's name states: ``lung_mask``, ``lesion_mask`` or ``other``; else ``""``.

    >>> mask_kind("LungMasks"), mask_kind("infection_segmentation"), mask_kind("heart-masks"), mask_kind("lungs")
    ('lung_mask', 'lesion_mask', 'other', '')
    """
    if one_name(folder) in _MASK_NAMES:
        return "lung_mask"
    words = set(one_name(camel_case_words(folder)).split())
    if not words & _MASK_WORDS:
        return ""
    named = words - _MASK_WORDS
    return "lung_mask" if named <= _LUNGS else "lesion_mask" if named <= _LESIONS else "other"


def is_image_folder(folder: str) -> bool:
    """Return whether a folder's name, such as ``images``, says only that it holds images."""
    return one_name(folder) in _IMAGE_NAMES


def mask_of(stem: str) -> tuple[str, str]:
    """Split a mask file's stem into its image's stem and the kind of mask; for an image, return its stem and ``""``.

    Numbered masks are of the kind ``other``, because none of them shows all of an image's lungs or lesions.

    >>> mask_of("1_mask"), mask_of("1-infection-mask"), mask_of("1_mask_2"), mask_of("1")
    (('1', 'lung_mask'), ('1', 'lesion_mask'), ('1', 'other'), ('1', ''))
    """
    ending = _MASK_ENDING.search(stem)
    if not ending or not ending.start():
        return stem, ""
    return stem[: ending.start()], "other" if ending[1] else mask_kind(ending[0].strip(" _-"))


def one_name(folder: str) -> str:
    """Return a folder's name in lower case and singular, with blanks between its words.

    >>> one_name("Lung_Masks"), one_name("images")
    ('lung mask', 'image')
    """
    return folder.lower().replace("_", " ").replace("-", " ").strip().removesuffix("s")


def _raise(error: OSError) -> None:
    raise error


def walk(root: Path, on_error: Callable[[OSError], object] = _raise, *, volumes: bool = False) -> Found:
    """Find the images below a folder; with ``volumes``, NIfTI files count as images.

    Symbolic links are followed, except to a folder that contains ``root``. Each folder is read once, real folders
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
            found.passed_over["a link to a parent folder or to a folder already read"] += 1
            continue
        seen.add(identity)
        if prefix:
            found.folders.append(prefix.removesuffix("/"))
        inside: list[str] = []
        images: list[str] = []
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
                    (found.masks if any(map(mask_kind, prefix.split("/"))) else images).append(name)
            except OSError as error:
                on_error(error)
        stems = {PurePosixPath(name).stem for name in images}
        for name in images:
            whose, kind = mask_of(PurePosixPath(name).stem)
            (found.masks if kind and whose in stems else found.images).append(name)
        real.extendleft(reversed(inside))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _passed_over(entry: os.DirEntry[str]) -> str:
    """Return why an entry of a folder is passed over; ``""`` for a folder to read, and for an image."""
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
