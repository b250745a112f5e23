"""What a data set says about each of its images, read from a folder or from a CSV manifest."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cvrnet.data.reading import IMAGE_SUFFIXES
from cvrnet.errors import UserError
from cvrnet.files import write_csv

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "source", "patient_id", "split", "view", "lung_mask", "lesion_mask")
SPLITS = {"": "", "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set.

    A patient may have several images, and several labels (before and during a disease).

    Attributes:
        path: the image file, absolute.
        name: as in the manifest: POSIX path relative to the data set's folder.
        label: the class, ``""`` where it is not known.
        source: the hospital or collection, ``""`` where it is not known.
        patient_id: one value a patient in the whole data set, over all its sources; ``""`` where it is not known.
        split: ``""``, ``"train"``, ``"val"`` or ``"test"``.
        view: the projection, such as PA or AP.
        lung_mask: image file of the lungs.
        lesion_mask: image file of the lesions.
        metadata: the manifest's further columns.
        where: for messages: the manifest's file name and line, ``""`` for an image found in a folder.
    """

    path: Path
    name: str
    label: str = ""
    source: str = ""
    patient_id: str = ""
    split: str = ""
    view: str = ""
    lung_mask: Path | None = None
    lesion_mask: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    def problem(self, reason: str) -> str:
        """One line that names the row, the image and what is wrong.

        >>> Record(Path("/data/a.png"), "a.png", where="manifest.csv:2").problem("file not found")
        'manifest.csv:2: a.png: file not found'
        """
        return ": ".join(part for part in (self.where, self.name, reason) if part)


class DataError(UserError):
    """A data set that cannot be used as it is.

    Attributes:
        problems: all of them, each one line: ``manifest.csv:12: images/a.png: file not found``.
        data: the folder or manifest.
    """

    def __init__(self, problems: Sequence[str], data: str | Path) -> None:
        super().__init__(problems, data)
        self.problems = list(problems)
        self.data = data

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        shown = f" (first {SHOWN_PROBLEMS} shown)" if len(self.problems) > SHOWN_PROBLEMS else ""
        head = f"{len(self.problems)} problems in {self.data}{shown}:"
        return "\n  ".join([head, *self.problems[:SHOWN_PROBLEMS]])


def read_records(data: str | Path, *, labelled: bool = True, min_classes: int = 2) -> list[Record]:
    """The images of a data set, in the manifest's order or, of a folder, by name.

    Args:
        data: a folder with one sub-folder a class; or a CSV manifest; or a folder that holds ``manifest.csv``. With
            ``labelled=False`` also any folder of images.
        labelled: whether each image must have a label.
        min_classes: how many classes there must be at least where images are labelled.

    Raises:
        DataError: with everything that is wrong (see `scan_records`).
    """
    records, problems = scan_records(data, labelled=labelled, min_classes=min_classes)
    if problems:
        raise DataError(problems, data)
    return records


def scan_records(data: str | Path, *, labelled: bool = True, min_classes: int = 2) -> tuple[list[Record], list[str]]:
    """As `read_records`, but gives the usable images and, one line each, what is wrong with the rest.

    Images are not opened: this finds missing files, duplicate paths, paths outside the data set's folder, missing
    columns and labels, unknown split values, patients in two splits, missing masks, empty class folders, too few
    classes and unreadable manifests.
    """
    root = Path(os.path.abspath(data))
    if root.is_dir() and (root / MANIFEST).is_file():
        root = root / MANIFEST
    if root.is_file():
        records, problems = _scan_manifest(root, labelled)
    elif root.is_dir():
        records, problems = _scan_folder(root, labelled)
    else:
        return [], [f"{data}: no such folder or CSV manifest"]
    if not records and not problems:
        problems = [f"{data}: no images"]
    classes = sorted({record.label for record in records})
    if labelled and records and len(classes) < min_classes:
        problems.append(f"{data}: only one class ({classes[0]}): at least {min_classes} are needed")
    return records, problems


def class_names(records: Iterable[Record], classes: Sequence[str] | None = None) -> list[str]:
    """The classes in the order of the network's outputs: alphabetical, or as given.

    Raises:
        UserError: if there are fewer than two, an image has none, or the classes given are not the images' own.

    >>> class_names([Record(Path("a"), "a", "NOR"), Record(Path("b"), "b", "CVP")])
    ['CVP', 'NOR']
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
        raise UserError(
            f"classes without an image: {', '.join(missing)} (the images have {', '.join(found) or 'none'})"
        )
    if len(names) < 2:
        raise UserError(f"only one class ({', '.join(names)}): at least 2 are needed")
    return names


def write_manifest(path: str | Path, records: Sequence[Record]) -> None:
    """Writes a manifest that `read_records` gives back, with the columns that are in use.

    Raises:
        UserError: if an image lies outside the manifest's folder, or the file cannot be written.
    """
    path = Path(os.path.abspath(path))
    rows = [_row(record, path.parent) for record in records]
    used = {column for row in rows for column, value in row.items() if value} | {"path"}
    further = sorted(used.difference(COLUMNS))
    columns = [column for column in COLUMNS if column in used] + further
    try:
        write_csv(path, ({column: row.get(column, "") for column in columns} for row in rows), columns)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _row(record: Record, root: Path) -> dict[str, str]:
    row = {column: getattr(record, column) for column in ("label", "source", "patient_id", "split", "view")}
    for column in ("path", "lung_mask", "lesion_mask"):
        file = getattr(record, column)
        if file is not None and (inside := _inside(file, root)) is None:
            raise UserError(f"{file}: not in the manifest's folder {root}")
        row[column] = inside if file is not None else ""
    return {**record.metadata, **row}


def _inside(path: Path, root: Path) -> str | None:
    """The POSIX path of a file relative to a folder, None if it lies elsewhere (symbolic links are not followed)."""
    path = Path(os.path.normpath(root / path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else None


def _scan_folder(root: Path, labelled: bool) -> tuple[list[Record], list[str]]:
    if not labelled:
        return [Record(root / name, name) for name in _images(root)], []
    records: list[Record] = []
    problems: list[str] = []
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        names = _images(folder)
        if not names:
            problems.append(f"{folder.name}: empty class folder: no {' '.join(IMAGE_SUFFIXES)} file")
        records += [Record(folder / name, f"{folder.name}/{name}", label=folder.name) for name in names]
    stray = [file.name for file in sorted(root.iterdir()) if _is_image(file.name) and file.is_file()]
    if stray:
        problems.append(f"{stray[0]}: {len(stray)} image(s) outside any class folder")
    return records, problems


def _images(root: Path) -> list[str]:
    """The POSIX paths of all image files below a folder, relative to it, sorted; hidden ones are left out."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [Path(folder, name).relative_to(root).as_posix() for name in files if _is_image(name)]
    return sorted(names)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _scan_manifest(manifest: Path, labelled: bool) -> tuple[list[Record], list[str]]:
    records: list[Record] = []
    problems: list[str] = []
    lines_of_paths: dict[str, int] = {}
    splits_of_patients: dict[str, tuple[str, int]] = {}
    try:
        for line, row in _rows(manifest, ("path", "label") if labelled else ("path",)):
            record, wrong = _read_row(row, manifest, line, labelled)
            if (first := lines_of_paths.setdefault(record.name, line)) != line:
                wrong.append(f"duplicate path (also in line {first})")
            if record.patient_id and record.split:
                split, first = splits_of_patients.setdefault(record.patient_id, (record.split, line))
                if split != record.split:
                    wrong.append(
                        f"patient {record.patient_id} is in split {record.split}, and in {split} (line {first})"
                    )
            problems += [record.problem(reason) for reason in wrong]
            if not wrong:
                records.append(record)
    except UserError as error:
        return [], [str(error)]
    if not records and not problems:
        problems = [f"{manifest.name}: no rows"]
    return records, problems


def _rows(manifest: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the stripped cells of each row that is not blank; UserError if this is no usable CSV."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            if missing := [column for column in required if column not in header]:
                raise UserError(
                    f"{manifest.name}:1: required column missing: {', '.join(missing)} (found: {_short(header)})"
                )
            if len(set(header)) < len(header):
                raise UserError(f"{manifest.name}:1: a column is named twice: {_short(header)}")
            for cells in reader:
                if len(cells) > len(header):
                    raise UserError(
                        f"{manifest.name}:{reader.line_num}: {len(cells)} cells in a row, {len(header)} in the header"
                    )
                if any(cell.strip() for cell in cells):
                    cells += [""] * (len(header) - len(cells))
                    yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{manifest.name}: not readable as a CSV file in UTF-8: {error}") from error


def _short(header: Sequence[str]) -> str:
    text = ", ".join(header).replace("\0", "?")
    return f"{text[:80]}…" if len(text) > 80 else text or "nothing"


def _read_row(row: dict[str, str], manifest: Path, line: int, labelled: bool) -> tuple[Record, list[str]]:
    """The record of one row, and what is wrong with it."""
    wrong: list[str] = []
    root = manifest.parent
    name = row["path"]
    inside = _inside(Path(name), root) if name else None
    if not name:
        wrong.append("empty path")
    elif inside is None:
        wrong.append("path outside the data folder")
    elif not (root / inside).is_file():
        wrong.append("file not found")
    if labelled and not row["label"]:
        wrong.append("empty label")
    split = SPLITS.get(row.get("split", "").lower())
    if split is None:
        wrong.append(f"unknown split {row['split']!r}: expected train, val or test")
    masks: dict[str, Path | None] = {"lung_mask": None, "lesion_mask": None}
    for column in masks:
        if value := row.get(column, ""):
            mask = _inside(Path(value), root)
            if mask is None:
                wrong.append(f"{column} outside the data folder: {value}")
            elif not (root / mask).is_file():
                wrong.append(f"{column} not found: {value}")
            else:
                masks[column] = root / mask
    record = Record(
        path=root / (inside or name),
        name=inside or str(PurePosixPath(name)),
        label=row.get("label", ""),
        source=row.get("source", ""),
        patient_id=row.get("patient_id", ""),
        split=split or "",
        view=row.get("view", ""),
        metadata={column: value for column, value in row.items() if column not in COLUMNS},
        where=f"{manifest.name}:{line}",
        **masks,
    )
    return record, wrong
