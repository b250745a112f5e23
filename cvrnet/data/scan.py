"""Read the list of a data set's images, and their classes, from a folder, a CSV manifest or the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cvrnet.data.hub_datasets import HUB_DATASET, scan_hub_dataset
from cvrnet.data.identity import with_identity
from cvrnet.data.image import IMAGE_SUFFIXES, is_image_file
from cvrnet.data.manifest import MANIFEST, scan_manifest
from cvrnet.data.record import SPLITS, Record, Row
from cvrnet.errors import UserError
from cvrnet.moved import moved_names

SHOWN_PROBLEMS = 20

__getattr__ = moved_names(__name__, {"write_manifest": "cvrnet.data.manifest"})


class DataError(UserError):
    """A data set that cannot be used as it is."""

    def __init__(self, problems: Sequence[str], data: str | Path) -> None:
        super().__init__(problems, data)
        self.problems = list(problems)  #: each one line: ``manifest.csv:12: images/a.png: file not found``
        self.data = data  #: the folder or manifest

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        shown = f" (first {SHOWN_PROBLEMS} shown)" if len(self.problems) > SHOWN_PROBLEMS else ""
        head = f"{len(self.problems)} problems in {self.data}{shown}:"
        return "\n  ".join([head, *self.problems[:SHOWN_PROBLEMS]])


def class_names(records: Iterable[Record], classes: Sequence[str] | None = None) -> list[str]:
    """The classes in the order of the network's outputs: alphabetical, or as given.

    Raises:
        UserError: there are fewer than two classes, an image has no label, or the given classes are not exactly those
            of the images.
    """
    found = sorted({record.label for record in records})
    if "" in found:
        raise UserError("some images have no label")
    names = found if classes is None else list(classes)
    if len(set(names)) < len(names):
        raise UserError(f"classes {', '.join(names)}: each must be given once")
    if unknown := [name for name in found if name not in names]:
        raise UserError(f"labels not among the classes {', '.join(names)}: {', '.join(unknown)}")
    if missing := [name for name in names if name not in found]:
        raise UserError(f"classes without an image: {', '.join(missing)}; the images have {', '.join(found) or 'none'}")
    if len(names) < 2:
        raise UserError(f"only one class ({', '.join(names)}): at least 2 are needed")
    return names


def check_classes(labels: Iterable[str], classes: Sequence[str]) -> None:
    """Refuse labels that are not among a model's classes. Classes without an image are accepted.

    Raises:
        UserError: the line names the unknown labels and the model's classes.
    """
    if unknown := sorted(set(labels) - set(classes)):
        raise UserError(f"the model does not know the class {', '.join(unknown)}; expected {', '.join(classes)}")


def read_records(data: str | Path, *, labelled: bool = True, min_classes: int = 2) -> list[Record]:
    """The images of a data set, in the manifest's order or, for a folder, sorted by name.

    Args:
        data: a folder with one sub-folder for each class, a CSV manifest, a folder that contains ``manifest.csv``, or
            ``hfds:user/name``, a data set of the Hugging Face Hub (extra ``hfds``). With ``labelled=False`` also any
            folder of images.
        labelled: whether each image must have a label.
        min_classes: the least number of classes, if images are labelled.

    Raises:
        DataError: with everything that is wrong (see `scan_records`).
    """
    records, problems = scan_records(data, labelled=labelled, min_classes=min_classes)
    if problems:
        raise DataError(problems, data)
    return records


def scan_records(
    data: str | Path, *, labelled: bool = True, min_classes: int = 2, allow_shared_patients: bool = False
) -> tuple[list[Record], list[str]]:
    """As `read_records`, but returns the usable images and, one line each, the problems of the others.

    This finds missing files, duplicate paths, paths outside the data set's folder, missing columns and labels, unknown
    split values, patients in two splits (unless `allow_shared_patients`), missing masks, empty class folders, too few
    classes and unreadable manifests. Images are not decoded. Only the tags of DICOM files are read, where a manifest
    does not give patient and source (see `cvrnet.data.identity`).
    """
    root = Path(os.path.abspath(data))
    if root.is_dir() and (root / MANIFEST).is_file():
        root = root / MANIFEST
    rows: list[Row] = []
    try:
        if str(data).startswith(HUB_DATASET):
            problems = scan_hub_dataset(data, labelled, rows)
        elif root.is_dir():
            problems = _scan_folder(root, labelled, rows)
        elif root.exists():
            problems = scan_manifest(root, labelled, rows, allow_shared_patients)
        else:
            problems = ["no such folder or CSV manifest"]
    except OSError as error:
        return [], [f"{data}: {error.filename}: {error.strerror}"]
    if not rows and not problems:
        problems = ["no images"]
    classes = sorted({record.label for record, _ in rows} - {""})
    if labelled and classes and len(classes) < min_classes:
        problems.append(f"only {len(classes)} class ({', '.join(classes)}): at least {min_classes} are needed")
    wrong_rows = [record.problem(reason) for record, wrong in rows for reason in wrong]
    return [record for record, wrong in rows if not wrong], wrong_rows + [f"{data}: {problem}" for problem in problems]


def _scan_folder(root: Path, labelled: bool, rows: list[Row]) -> list[str]:
    """Append the images in a folder to `rows`; returns the problems of the folder itself."""
    if not labelled:
        rows += [_row(root, name) for name in _images(root)]
        return []
    problems = []
    visible = [entry for entry in sorted(root.iterdir()) if not entry.name.startswith(".")]
    for folder in (entry for entry in visible if entry.is_dir()):
        if folder.name.lower() in SPLITS:
            problems.append(f"{folder.name} is not a class: a manifest's split column names the splits")
            continue
        names = _images(folder)
        if not names:
            problems.append(f"{folder.name}: empty class folder (no {' '.join(IMAGE_SUFFIXES)} file)")
        rows += [_row(root, f"{folder.name}/{name}", folder.name) for name in names]
    if stray := [file.name for file in visible if file.is_file() and is_image_file(file)]:
        more = f" and {len(stray) - 1} more" if len(stray) > 1 else ""
        problems.append(f"images outside the class folders: {stray[0]}{more}")
    return problems


def _row(root: Path, name: str, label: str = "") -> Row:
    # Linux allows file names that are not text. Python then uses surrogates, which no manifest in UTF-8 can contain.
    undecodable = any("\ud800" <= character <= "\udfff" for character in name)
    wrong = ["the file name is not Unicode text"] if undecodable else []
    return with_identity(Record(root / name, name, label), wrong)


def _images(root: Path) -> list[str]:
    """The POSIX paths of all image files below a folder, relative to it, sorted.

    Hidden files and folders are left out, and symbolic links to folders are not followed.
    """

    def refuse(error: OSError) -> None:
        raise error

    names = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder, name) for name in files)
        names += [path.relative_to(root).as_posix() for path in paths if is_image_file(path)]
    return sorted(names)
