"""Read and write the CSV manifest of a data set: one row for each image."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cvrnet.data.boxes import boxes_text, parse_boxes
from cvrnet.data.cells import clean, is_missing, label_problem, split_name
from cvrnet.data.columns import header_problem, mapping_problem, our_names, plain_names
from cvrnet.data.locate import Listings, locate
from cvrnet.data.patients import rounded_problem
from cvrnet.data.record import Record, Row
from cvrnet.errors import UserError
from cvrnet.files import open_regular, write_csv

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "source", "patient_id", "split", "view", "lung_mask", "lesion_mask", "lesion_boxes")
_LONGEST_HEADER = 100_000  # characters


def scan_manifest(
    manifest: Path,
    labelled: bool,
    rows: list[Row],
    root: Path | None = None,
    names: Mapping[str, str] | None = None,
    volumes: bool = False,
) -> list[str]:
    """Append to `rows` the images that a manifest lists; return the problems of the manifest itself.

    ``root`` is the folder that the paths are relative to (by default the manifest's folder). ``names`` maps cvrnet's
    name of a column to the column's name in the manifest, if the two differ. If ``labelled`` is false, the column label
    is optional. With ``volumes``, a path may name a folder.
    """
    root, names = root or manifest.parent, names or {}
    lines: dict[Path, int] = {}
    listings: Listings = {}
    try:
        with _open_text(manifest) as file:
            reader = csv.reader(file, delimiter=_delimiter(file, names.get("path", "path")), strict=True)
            header = [clean(name) for name in next(reader, [])]
            if problem := mapping_problem(header, names):
                return [problem]
            header = our_names(header, names)
            if problem := header_problem([name for name in header if name], labelled, COLUMNS):
                return [problem]
            header = plain_names(header, COLUMNS[2:])
            for cells in reader:
                row, wrong = _named_cells(header, [cell.strip() for cell in cells])
                if not any(row.values()) and not wrong:
                    continue
                line = reader.line_num
                record, problems = _read_row(row, root, f"{manifest.name}:{line}", labelled, listings, volumes)
                if record.name and (first := lines.setdefault(record.path, line)) != line:
                    problems.append(f"duplicate path (also in line {first})")
                rows.append((record, problems + wrong))
    except UnicodeError as error:
        return [f"not readable as a CSV file in UTF-8: {error} (Excel: save as CSV UTF-8)"]
    except csv.Error as error:
        return [f"not readable as a CSV file in UTF-8: {error}"]
    return [] if rows else ["the manifest has no rows"]


def _open_text(manifest: Path) -> TextIO:
    """Open a manifest in UTF-8, with or without a byte-order mark, or UTF-16 with this mark; Excel writes all three."""
    file = open_regular(manifest)
    start = file.read(2)
    file.seek(0)
    utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(file, encoding="utf-16" if utf16 else "utf-8-sig", newline="")


def _delimiter(file: TextIO, path: str) -> str:
    """Return the delimiter (comma, semicolon or tab) with which the header has the column ``path``."""
    start = file.readline(_LONGEST_HEADER)
    file.seek(0)

    def columns(delimiter: str) -> list[str]:
        return [clean(name) for name in next(csv.reader([start], delimiter=delimiter), [])]

    return max(",;\t", key=lambda delimiter: (path in (found := columns(delimiter)), len(found)))


def _named_cells(header: Sequence[str], cells: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return a row as column name -> cell, and its problem: too many cells, or a cell in a column without a name.

    Columns without a name are left out: Excel writes empty columns, and pandas writes its index as the first column.
    """
    row = {name: cell for name, cell in itertools.zip_longest(header, cells[: len(header)], fillvalue="") if name}
    if any(cells[len(header) :]):
        return row, [f"the row has {len(cells)} cells, the header {len(header)}"]
    loose = [cell for name, cell in list(zip(header, cells, strict=False))[1:] if cell and not name]
    return row, [f"a cell in a column without a name: {loose[0]!r}"] if loose else []


def _read_row(
    row: dict[str, str], root: Path, where: str, labelled: bool, listings: Listings, volumes: bool
) -> tuple[Record, list[str]]:
    """Return the record of one row, and its problems."""
    wrong: list[str] = []
    if any("\0" in cell for cell in row.values()):
        wrong.append("a NUL character in the row")
        row = {column: cell.replace("\0", "") for column, cell in row.items()}
    name = row["path"]
    inside = _inside(Path(name), root) if name else None
    path = root / (inside or name)
    if not name:
        wrong.append("empty path")
    elif inside is None:
        wrong.append("path outside the data folder (--images chooses this folder)")
    else:
        path, problem = locate(root, inside, listings)
        if problem and not (volumes and path.is_dir()):
            wrong.append(problem + " (folders are separated by /)" * ("\\" in inside))
    label = clean(row.get("label", ""))
    if labelled and (problem := label_problem(label)):
        wrong.append(problem)
    split = split_name(row.get("split", ""))
    if split is None:
        wrong.append(f"unknown split {row['split']!r}: expected train, val or test")
    if problem := rounded_problem(row.get("patient_id", "")):
        wrong.append(problem)
    masks: dict[str, Path | None] = {"lung_mask": None, "lesion_mask": None}
    for column in masks:
        if value := row.get(column, ""):
            mask = _inside(Path(value), root)
            if mask is None:
                wrong.append(f"{column} outside the data folder: {value}")
                continue
            masks[column], problem = locate(root, mask, listings)
            if problem:
                wrong.append(f"{column} {problem.removeprefix('file ')}: {value}")
    boxes = parse_boxes(row.get("lesion_boxes", ""))
    if boxes is None:
        wrong.append(
            f"lesion_boxes {row['lesion_boxes']!r:.60}: expected left,top,width,height in pixels, and ; between boxes"
        )
    record = Record(
        path=path,
        name=inside or name,
        label="" if is_missing(label) else label,
        source=clean(row.get("source", "")),
        patient_id=row.get("patient_id", ""),
        split=split or "",
        view=row.get("view", ""),
        lesion_boxes=boxes or (),
        metadata={column: value for column, value in row.items() if column not in COLUMNS},
        where=where,
        lung_mask=masks["lung_mask"],
        lesion_mask=masks["lesion_mask"],
    )
    return record, wrong


def write_manifest(path: str | Path, records: Sequence[Record], root: Path | None = None) -> None:
    """Write a manifest from which `read_records` reads the same records; empty columns are left out.

    ``root`` is the folder that the paths are relative to (by default the manifest's folder). If you give
    ``root``, give the same folder to `read_records` as ``images``.

    Raises:
        UserError: An image or mask lies outside this folder, or the file cannot be written.
    """
    path = Path(os.path.abspath(path))
    rows = [_row(record, root or path.parent) for record in records]
    used = {"path", *(column for row in rows for column in row)}
    columns = [column for column in COLUMNS if column in used] + sorted(used.difference(COLUMNS))
    try:
        write_csv(path, rows, columns)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _row(record: Record, root: Path) -> dict[str, str]:
    row: dict[str, Any] = {**record.metadata, **{column: getattr(record, column) for column in COLUMNS}}
    row["lesion_boxes"] = boxes_text(record.lesion_boxes)
    for column in ("path", "lung_mask", "lesion_mask"):
        if file := row[column]:
            row[column] = _inside(file, root)
            if row[column] is None:
                raise UserError(f"{file}: expected a file in the folder {root} or below")
    return {column: value for column, value in row.items() if value}


def _inside(path: Path, root: Path) -> str | None:
    """Return a file's POSIX path relative to a folder; None if it is outside (symbolic links are not followed)."""
    path = Path(os.path.normpath(root / path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else None
