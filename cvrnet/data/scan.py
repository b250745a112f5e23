"""Read the list of a data set's images, and their classes, from a folder, a CSV manifest or the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from cvrnet.data.cells import spelling_problems
from cvrnet.data.class_folders import scan_folder
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.hub_datasets import HUB_DATASET, scan_hub_dataset
from cvrnet.data.identity import identify
from cvrnet.data.manifest import MANIFEST, scan_manifest
from cvrnet.data.record import Record, Row
from cvrnet.errors import UserError
from cvrnet.moved import moved_names

SHOWN_PROBLEMS = 20

__getattr__ = moved_names(__name__, {"write_manifest": "cvrnet.data.manifest"})


class DataError(UserError):
    """The error for a data set that has problems."""

    def __init__(self, problems: Sequence[str], data: DataPath) -> None:
        super().__init__(problems, data)
        self.problems = list(problems)  #: one line each, such as ``manifest.csv:12: images/a.png: file not found``
        self.data = data  #: the folder or manifest

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        shown = f" (first {SHOWN_PROBLEMS} shown)" if len(self.problems) > SHOWN_PROBLEMS else ""
        head = f"{len(self.problems)} problems in {self.data}{shown}:"
        return "\n  ".join([head, *self.problems[:SHOWN_PROBLEMS]])


def class_names(records: Iterable[Record], classes: Sequence[str] | None = None) -> list[str]:
    """Return the classes in the order of the network's outputs: alphabetical, or as given.

    Raises:
        UserError: there are fewer than two classes, an image has no label, or the given classes are not exactly the
            classes of the images.
    """
    found = sorted({record.label for record in records})
    if "" in found:
        raise UserError("some images have no label")
    names = found if classes is None else list(classes)
    if len(set(names)) < len(names):
        raise UserError(f"classes {', '.join(names)}: each must be given once")
    if unknown := [name for name in found if name not in names]:
        todo = "name every class, or correct the labels"
        raise UserError(f"labels not among the classes {', '.join(names)}: {', '.join(unknown)}; {todo}")
    if missing := [name for name in names if name not in found]:
        labels = ", ".join(found) or "none"
        raise UserError(f"classes without an image: {', '.join(missing)}; labels of the images: {labels}")
    if len(names) < 2:
        raise UserError(f"only one class ({', '.join(names)}): at least 2 are needed")
    return names


def check_classes(labels: Iterable[str], classes: Sequence[str]) -> None:
    """Refuse labels that are not among a model's classes. Classes without an image are accepted.

    Raises:
        UserError: a label is unknown; the message names the unknown labels and the model's classes.
    """
    if unknown := sorted(set(labels) - set(classes)):
        raise UserError(f"the model does not know the class {', '.join(unknown)}; expected {', '.join(classes)}")


def _ignore(line: str) -> None:
    pass


def read_records(
    data: DataPath,
    *,
    labelled: bool = True,
    min_classes: int = 2,
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    say: Callable[[str], object] = _ignore,
) -> list[Record]:
    """Return the images of a data set, in the manifest's order or, for a folder, sorted by name.

    Args:
        data: a folder with one sub-folder for each class, a CSV manifest, a folder that contains ``manifest.csv``, a
            data set of the Hugging Face Hub as ``hfds:user/name`` (extra ``hfds``), or a `DataSet`. With
            ``labelled=False``, it may also be any folder of images.
        labelled: whether each image must have a label.
        min_classes: the least number of classes, if ``labelled`` is true.
        images: the folder that a manifest's paths are relative to; by default the manifest's folder.
        columns: cvrnet's name of a column -> its name in the manifest, such as ``{"path": "Image Index"}``.
        say: called with lines about files and folders that were passed over, and about how masks, patients and splits
            were found.

    Raises:
        DataError: the data set has problems (see `scan_records`); the message shows the first 20.
    """
    records, problems = scan_records(
        data, labelled=labelled, min_classes=min_classes, images=images, columns=columns, say=say
    )
    if problems:
        raise DataError(problems, data)
    return records


def scan_records(
    data: DataPath,
    *,
    labelled: bool = True,
    min_classes: int = 2,
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    allow_shared_patients: bool = False,
    volumes: bool = False,
    say: Callable[[str], object] = _ignore,
) -> tuple[list[Record], list[str]]:
    """Return the images that can be used (see `read_records`), and one line for each problem.

    Problems are, for example, missing files, duplicate paths, paths outside the data set's folder, missing columns,
    labels that cannot name a class (such as ``N/A``) or are spelled in two ways, unknown split values, patients in two
    splits (unless `allow_shared_patients`), missing masks, empty class folders, too few classes and unreadable
    manifests. A problem of one image excludes this image. Images are not decoded. With ``volumes``, NIfTI files are
    images, too, and so are folders of DICOM series in a manifest. The tags of DICOM files are read if the data set does
    not give both patient and source (see `cvrnet.data.identity`).
    """
    data = DataSet.of(data, images, columns)
    root = Path(os.path.abspath(data))
    if os.path.isfile(root / MANIFEST):
        root = root / MANIFEST
    rows: list[Row] = []
    try:
        if data.images and not os.path.isdir(data.images):
            problems = [f"{data.images}: no such folder (--images expects the folder of the images)"]
        elif os.path.isfile(root):
            problems = scan_manifest(root, labelled, rows, data.root(root), data.columns, volumes)
        elif data.images or data.columns:
            problems = ["not a CSV manifest; --images and --columns are for manifests"]
        elif str(data).startswith(HUB_DATASET):
            problems = scan_hub_dataset(str(data), labelled, rows)
        elif os.path.isdir(root):
            problems = scan_folder(root, labelled, rows, say, volumes)
        elif os.path.exists(root):
            problems = scan_manifest(root, labelled, rows)
        else:
            problems = ["no such folder or CSV manifest"]
    except OSError as error:
        inside = "" if str(error.filename) == str(root) else f"{error.filename}: "
        return [], [f"{data}: {inside}{error.strerror}"]
    if not rows and not problems:
        problems = ["no images"]
    rows = identify(rows, say)
    if not allow_shared_patients:
        _refuse_shared_patients(rows)
    if labelled:
        problems += spelling_problems(record for record, wrong in rows if not wrong)
    classes = sorted({record.label for record, _ in rows} - {""})
    if labelled and classes and len(classes) < min_classes:
        problems.append(f"only {len(classes)} class ({', '.join(classes)}): at least {min_classes} are needed")
    wrong_rows = [record.problem(reason) for record, wrong in rows for reason in wrong]
    return [record for record, wrong in rows if not wrong], wrong_rows + [f"{data}: {problem}" for problem in problems]


def _refuse_shared_patients(rows: Iterable[Row]) -> None:
    """Add a problem to each row whose patient is also in another split."""
    first: dict[str, Record] = {}
    for record, wrong in rows:
        if record.patient_id and record.split:
            other = first.setdefault(record.patient_id, record)
            if other.split != record.split:
                line = other.where.rpartition(":")[2]
                place = f"line {line}" if line.isdigit() else other.name
                both = f"{record.split} here, {other.split} in {place}"
                wrong.append(f"patient {record.patient_id} in two splits: {both}")
