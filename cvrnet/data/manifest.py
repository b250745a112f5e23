"""The CSV manifest of a data set: one row an image."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cvrnet.data.identity import identity
from cvrnet.data.image import PICTURE_SUFFIXES, is_dicom
from cvrnet.data.limits import Refused
from cvrnet.data.record import SPLITS, Record, Row
from cvrnet.errors import UserError
from cvrnet.files import write_csv

COLUMNS = ("path", "label", "source", "patient_id", "split", "view", "lung_mask", "lesion_mask")


def scan_manifest(manifest: Path, labelled: bool, rows: list[Row], allow_shared_patients: bool = False) -> list[str]:
    """Appends the images that a manifest lists, and gives what is wrong with the manifest itself."""
    lines: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
            if not header:
                return ["the manifest is empty"]
            required = ("path", "label") if labelled else ("path",)
            if missing := [column for column in required if column not in header]:
                return [f"required column missing: {', '.join(missing)} (found: {_short(header)})"]
            if len(set(header)) < len(header):
                return [f"a column is named twice: {_short(header)}"]
            for cells in reader:
                surplus = cells.pop(None, None)
                row = {column: (cell or "").strip() for column, cell in cells.items()}
                if not any(row.values()) and not surplus:
                    continue
                record, wrong = _read_row(row, manifest, reader.line_num, labelled)
                if surplus:
                    wrong.append(f"the row has {len(header) + len(surplus)} cells, the header {len(header)}")
                if record.name and (first := lines.setdefault(record.name, reader.line_num)) != reader.line_num:
                    wrong.append(f"duplicate path (also in line {first})")
                if record.patient_id and record.split and not allow_shared_patients:
                    split, first = splits.setdefault(record.patient_id, (record.split, reader.line_num))
                    if split != record.split:
                        wrong.append(
                            f"patient {record.patient_id} in two splits: {record.split}, and {split} in line {first}"
                        )
                rows.append((record, wrong))
    except (csv.Error, UnicodeDecodeError) as error:
        return [f"not readable as a CSV file in UTF-8: {error}"]
    return [] if rows else ["the manifest has no rows"]


def _read_row(row: dict[str, str], manifest: Path, line: int, labelled: bool) -> Row:
    """The record of one row, and what is wrong with it."""
    wrong: list[str] = []
    root = manifest.parent
    if any("\0" in cell for cell in row.values()):
        wrong.append("a NUL character in the row")
        row = {column: cell.replace("\0", "") for column, cell in row.items()}
    name = row["path"]
    inside = _inside(Path(name), root) if name else None
    if not name:
        wrong.append("empty path")
    elif inside is None:
        wrong.append("path outside the data folder")
    elif not (root / inside).is_file():
        wrong.append("file not found" + " (folders are separated by /)" * ("\\" in inside))
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
        name=inside or name,
        label=row.get("label", ""),
        source=row.get("source", ""),
        patient_id=row.get("patient_id", ""),
        split=split or "",
        view=row.get("view", ""),
        metadata={column: value for column, value in row.items() if column not in COLUMNS},
        where=f"{manifest.name}:{line}",
        **masks,
    )
    return identified((record, wrong))


def identified(row: Row) -> Row:
    """The row, with patient and source from the tags of a DICOM file where it does not say them."""
    record, wrong = row
    if wrong or (record.patient_id and record.source) or record.path.suffix.lower() in PICTURE_SUFFIXES:
        return row
    try:
        with open(record.path, "rb") as file:
            if not is_dicom(file):
                return row
        patient_id, source = identity(record.path)
    except ModuleNotFoundError as error:
        return record, [f'a DICOM file, which needs {error.name}: pip install "cvrnet[dicom]"']
    except (Refused, OSError) as error:
        return record, [getattr(error, "strerror", None) or str(error)]
    found = replace(record, patient_id=record.patient_id or patient_id, source=record.source or source)
    return found, wrong


def _short(header: Sequence[str]) -> str:
    text = ", ".join(header)
    return repr(f"{text[:80]}…" if len(text) > 80 else text)


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
