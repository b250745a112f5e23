"""Read and write the CSV manifest of a data set: one row for each image."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from cvrnet.data.identity import with_identity
from cvrnet.data.record import SPLITS, Record, Row
from cvrnet.errors import UserError
from cvrnet.files import write_csv

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "source", "patient_id", "split", "view", "lung_mask", "lesion_mask")


def scan_manifest(manifest: Path, labelled: bool, rows: list[Row], allow_shared_patients: bool = False) -> list[str]:
    """Append the images that a manifest lists to `rows`; returns the problems of the manifest itself."""
    lines: dict[str, int] = {}
    splits: dict[str, tuple[str, int]] = {}
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:  # Excel begins UTF-8 with a byte-order mark
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
            if problem := _header_problem(header, labelled):
                return [problem]
            for cells in reader:
                surplus = cells.pop(None, None)  # DictReader's key for cells beyond the header
                row = {column: (cell or "").strip() for column, cell in cells.items()}
                if not any(row.values()) and not surplus:
                    continue
                line = reader.line_num
                record, wrong = _read_row(row, manifest, line, labelled)
                if surplus:
                    wrong.append(f"the row has {len(header) + len(surplus)} cells, the header {len(header)}")
                if record.name and (first := lines.setdefault(record.name, line)) != line:
                    wrong.append(f"duplicate path (also in line {first})")
                if record.patient_id and record.split and not allow_shared_patients:
                    split, first = splits.setdefault(record.patient_id, (record.split, line))
                    if split != record.split:
                        both = f"{record.split}, and {split} in line {first}"
                        wrong.append(f"patient {record.patient_id} in two splits: {both}")
                rows.append((record, wrong))
    except (csv.Error, UnicodeDecodeError) as error:
        return [f"not readable as a CSV file in UTF-8: {error}"]
    return [] if rows else ["the manifest has no rows"]


def _header_problem(header: Sequence[str], labelled: bool) -> str:
    if not header:
        return "the manifest is empty"
    text = ", ".join(header)
    short = repr(f"{text[:80]}…" if len(text) > 80 else text)
    missing = [column for column in COLUMNS[: 2 if labelled else 1] if column not in header]
    if missing:
        return f"required column missing: {', '.join(missing)} (found: {short})"
    return f"a column is named twice: {short}" if len(set(header)) < len(header) else ""


def _read_row(row: dict[str, str], manifest: Path, line: int, labelled: bool) -> Row:
    """The record of one row, and its problems."""
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
    return with_identity(record, wrong)


def write_manifest(path: str | Path, records: Sequence[Record]) -> None:
    """Write a manifest from which `read_records` reads the same records, with the columns that are in use.

    Raises:
        UserError: an image lies outside the manifest's folder, or the file cannot be written.
    """
    path = Path(os.path.abspath(path))
    rows = [_row(record, path.parent) for record in records]
    used = {"path", *(column for row in rows for column in row)}
    columns = [column for column in COLUMNS if column in used] + sorted(used.difference(COLUMNS))
    try:
        write_csv(path, rows, columns)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _row(record: Record, root: Path) -> dict[str, str]:
    row = {**record.metadata, **{column: getattr(record, column) for column in COLUMNS}}
    for column in ("path", "lung_mask", "lesion_mask"):
        if file := row[column]:
            row[column] = _inside(file, root)
            if row[column] is None:
                raise UserError(f"{file}: not in the manifest's folder {root}")
    return {column: value for column, value in row.items() if value}


def _inside(path: Path, root: Path) -> str | None:
    """The POSIX path of a file relative to a folder, None if it lies elsewhere (symbolic links are not followed)."""
    path = Path(os.path.normpath(root / path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else None
