"""Import any other data set: a folder that contains a sub-folder for each class, or a CSV file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from cvrnet.data.class_folders import scan_folder
from cvrnet.data.columns import mapping_problem, meanings, our_names
from cvrnet.data.image import IMAGE_SUFFIXES
from cvrnet.data.manifest import COLUMNS, MANIFEST
from cvrnet.data.record import Row as FolderRow
from cvrnet.datasets.folder import Folder, Row
from cvrnet.datasets.public_set import PublicSet
from cvrnet.errors import UserError


def rows(folder: Folder, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows of the manifest, from the folder's only CSV file or, if there is none, from its class folders.

    ``columns``: column of the manifest -> column of the CSV file. The meaning of other columns is guessed from their
    names (``Image Index`` is a path).
    """
    tables = sorted(path for path in folder.root.glob("*.csv") if path.name != MANIFEST)
    if len(tables) > 1:
        raise folder.refusal(f"found {len(tables)}: {', '.join(path.name for path in tables)}")
    yield from _of_table(folder, tables[0], columns or {}) if tables else _of_folders(folder)


def _of_table(folder: Folder, table: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    entries = list(folder.table(table))
    header = list(entries[0]) if entries else []
    if problem := mapping_problem(header, columns):
        raise UserError(f"{table}: {problem}")
    names = {**meanings(our_names(header, columns), COLUMNS), **columns}
    if "path" not in {*names, *header}:
        raise folder.refusal(f"no column of {table.name} seems to be a path; name it with --columns path=NAME")
    folder.notes += [f"column {own!r} is used as {ours}" for ours, own in names.items()]
    by_stem = {PurePosixPath(path).stem: path for path in folder.found.images}
    for entry in entries:
        row = dict(zip(our_names(header, names), entry.values(), strict=False))
        name = row.pop("path", "").replace("\\", "/")
        ended = name.lower().endswith(IMAGE_SUFFIXES)
        path = folder.image(name, table.name) if ended or name not in by_stem else by_stem[name]
        if path:
            yield {"path": path, **{column: cell for column, cell in row.items() if column}}


def _of_folders(folder: Folder) -> Iterator[Row]:
    found: list[FolderRow] = []
    if problems := scan_folder(folder.root, True, found, folder.notes.append):
        raise folder.refusal(problems[0])
    for record, wrong in found:
        if wrong:
            folder.left_out[wrong[0]] += 1
            continue
        masks = {"lung_mask": record.lung_mask, "lesion_mask": record.lesion_mask}
        files = {kind: path.relative_to(folder.root).as_posix() for kind, path in masks.items() if path}
        yield {"path": record.name, "label": record.label, "split": record.split, **files}


GENERIC = PublicSet(
    "generic", "Any data set", "one sub-folder for each class, or one CSV file that names the images", rows
)
