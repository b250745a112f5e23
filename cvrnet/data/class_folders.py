"""Read a data set without a manifest: the names of folders and files tell the classes, the splits and the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from cvrnet.data.cells import clean, label_problem, split_name
from cvrnet.data.image import IMAGE_SUFFIXES
from cvrnet.data.record import Record, Row
from cvrnet.data.walk import Found, is_image_folder, mask_kind, mask_of, walk
from cvrnet.formatting import count, counts
from cvrnet.text import printable


def scan_folder(
    root: Path, labelled: bool, rows: list[Row], say: Callable[[str], object], volumes: bool = False
) -> list[str]:
    """Append each image in a folder, with its problems, to `rows`; return the problems of the folder as a whole.

    If ``labelled`` is false, folders give neither classes nor splits. ``volumes`` is as in `walk`. ``say`` is called
    with up to three lines: about masks, about files and folders that were passed over, and about splits.
    """
    found = walk(root, volumes=volumes)
    masks = {(_mask_kind_of(name), _without_kind(name)): root / name for name in found.masks}
    used: set[Path | None] = set()
    for name in sorted(found.images):
        split, label = _meaning(_folders(name)) if labelled else ("", "")
        record = Record(root / name, name, label, split=split)
        fields: Any = {kind: masks.get((kind, _without_kind(name))) for kind in ("lung_mask", "lesion_mask")}
        used |= set(fields.values())
        # Linux allows file names that are not text. Python then uses surrogates, which no manifest can contain.
        undecodable = any("\ud800" <= character <= "\udfff" for character in name)
        wrong = ["the file name is not Unicode text"] * undecodable
        if label and (problem := label_problem(label)):
            wrong.append(problem)
        rows.append((replace(record, **fields), wrong))
    used -= {None}
    if used:
        found_masks = count(len(used), "image is a mask of another image", "images are masks of other images")
        say(f"{printable(str(root))}: {found_masks}, judging by names or folders")
    if unused := len(set(masks.values()) - used):
        found.passed_over["a mask without an image"] += unused
    if sentence := found.passed_over_sentence(root):
        say(sentence)
    return _problems(found, rows, say) if labelled else []


def _problems(found: Found, rows: Sequence[Row], say: Callable[[str], object]) -> list[str]:
    problems = []
    labels = {label for name in found.folders if (label := _meaning(name.split("/"))[1])}
    for label in sorted(labels - {record.label for record, _ in rows}):
        problems.append(f"{label}: empty class folder (no {' '.join(IMAGE_SUFFIXES)} or other DICOM file)")
    inside = {folders[0] for record, _ in rows if (folders := _folders(record.name))}
    splits = sorted(name for name in inside if split_name(name))
    if splits and (beside := sorted(name for name in inside - set(splits) if not is_image_folder(name))):
        problems.append(
            f"{beside[0]} is beside the split folders {', '.join(splits)}: expected all classes inside these folders"
        )
    elif parts := {record.split for record, _ in rows} - {""}:
        numbers = {part: sum(record.split == part for record, _ in rows) for part in sorted(parts)}
        say(f"the folders' names give the splits: {counts(numbers)}")
    if stray := [record.name for record, _ in rows if not record.label]:
        more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
        problems.append(f"images outside the class folders: {printable(stray[0])}{more}")
    return problems


def _folders(name: str) -> list[str]:
    return list(PurePosixPath(name).parts[:-1])


def _meaning(folders: Sequence[str]) -> tuple[str, str]:
    """Return the split and the class that the names of an image's parent folders state; ``""`` if they state none.

    >>> _meaning(["Training", "CVP", "images"]), _meaning(["CVP", "test"]), _meaning(["images", "NOR", "a", "val"])
    (('train', 'CVP'), ('test', 'CVP'), ('', 'NOR'))
    """
    folders = [name for name in folders if not is_image_folder(name) and not mask_kind(name)]
    splits = [split_name(name) or "" for name in folders[:2]]
    labels = [name for name, split in zip(folders, splits, strict=False) if not split] or folders[2:]
    return next(filter(None, splits), ""), clean(labels[0]) if labels else ""


def _mask_kind_of(name: str) -> str:
    """Return the kind of a mask, ``lung_mask`` or ``lesion_mask``, from the name of a folder or of the file."""
    return next(filter(None, map(mask_kind, _folders(name))), "") or mask_of(PurePosixPath(name).stem)[1]


def _without_kind(name: str) -> tuple[str, ...]:
    """Return the key that an image shares with its masks: its folders, without image and mask folders, and its stem."""
    folders = (folder for folder in _folders(name) if not is_image_folder(folder) and not mask_kind(folder))
    return (*folders, mask_of(PurePosixPath(name).stem)[0])
