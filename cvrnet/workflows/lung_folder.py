"""Write the folder of `cvrnet lungs`: masks, a manifest that names them, their quality, and the segmenter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from cvrnet.data import ImageError, Preprocessing, Record
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.lung_masks import Mask, border_share, lobes, mask_problem, read_mask
from cvrnet.data.manifest import MANIFEST, write_manifest
from cvrnet.errors import UserError
from cvrnet.files import write_csv, write_json
from cvrnet.folders import check_replaceable, entries, lock_folder, made_aside, real_folder, recover
from cvrnet.runs.folder import versions
from cvrnet.runs.layout import SEGMENTER
from cvrnet.runs.read import read_json
from cvrnet.workflows.callbacks import Callbacks
from cvrnet.workflows.lung_sheet import LungSheet

if TYPE_CHECKING:
    from cvrnet.workflows.find_lungs import FoundMasks

KIND = "lungs"
SUMMARY, QUALITY, TABLE, MASKS, SHEET = "summary.json", "quality.csv", "masks.csv", "masks", "lungs.png"
ENTRIES = (SUMMARY, QUALITY, TABLE, MASKS, SHEET, MANIFEST, SEGMENTER)
GIVEN, FOUND = "given", "segmenter"


@contextmanager
def new_lung_folder(output: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """Yield the folder that the user named, and a new folder that replaces it if the ``with`` block succeeds.

    Raises:
        UserError: The folder has files that `cvrnet lungs` did not write; or it has an earlier result, and
            ``overwrite`` is not set.
    """
    folder = real_folder(output)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(folder))
        recover(folder)
        if folder.is_file():
            raise UserError(f"{folder} exists and is not a folder; choose another folder")
        if entries(folder):
            summary = folder / SUMMARY
            if not summary.is_file() or read_json(summary).get("kind") != KIND:
                raise UserError(f"{folder} holds something that `cvrnet lungs` did not write; choose another folder")
            if not overwrite:
                raise UserError(f"{folder} holds lung masks already; --overwrite replaces them")
            check_replaceable(folder, lambda path: path.name in ENTRIES)
        new = stack.enter_context(made_aside(folder))
        new.mkdir(parents=True)
        yield folder, new


def write_lungs(
    data: DataPath,
    folder: Path,
    new: Path,
    found: FoundMasks,
    usable: set[Path],
    reader: Preprocessing,
    about: dict[str, Any],
    callbacks: Callbacks,
) -> dict[str, Any]:
    """Segment the images that have no usable mask, write all files, and return the content of summary.json.

    ``folder`` is the final folder, ``new`` the folder to write to. ``usable`` has the paths of the images with a usable
    mask in the data set. ``about`` has further keys of summary.json.
    """
    found.segmenter.save(new / SEGMENTER)
    progress = callbacks.stage("Segmenting")
    dice = {row["path"]: row["dice"] for row in found.quality}
    sheet, records = LungSheet(), []
    for done, record in enumerate(found.records, start=1):
        try:
            picture = reader.read_whole(record.path)
        except ImageError as error:
            found.problems.append(record.problem(error.reason))
            callbacks.say(f"Error: {found.problems[-1]}")
            continue
        if record.path in usable and record.lung_mask is not None:
            mask, problem = read_mask(record.lung_mask, picture.shape), ""
            found.rows.append(_row(record, record.lung_mask, GIVEN, mask, ""))
            sheet.compare(record, picture, mask, found.masks[record.name], dice[record.name])
        else:
            mask = found.segmenter(picture)
            problem, name = mask_problem(mask), f"{MASKS}/{record.name}.png"
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(new / name)
            found.rows.append(_row(record, folder / name, FOUND, mask, problem))
            record = replace(record, lung_mask=None if problem else folder / name)
            sheet.show(record, picture, mask, problem)
        records.append(record)
        progress(done, len(found.records))
    root = _root(data, folder, records)
    write_manifest(new / MANIFEST, records, root)
    write_csv(
        new / TABLE, ({**row, "mask": os.path.relpath(row["mask"], folder)} for row in found.rows), list(_COLUMNS)
    )
    if found.quality:
        write_csv(new / QUALITY, found.quality)
    sheet.write(new / SHEET)
    counts = Counter((row["from"], bool(row["problem"])) for row in found.rows)
    summary = {
        "kind": KIND,
        **DataSet.of(data).for_run(),
        "images": len(found.records),
        "given": counts[GIVEN, False],
        "found": counts[FOUND, False],
        "implausible": counts[FOUND, True],
        "problems": found.problems,
        "images_root": str(root),
        **about,
        "versions": versions("cvrnet", "torch", "timm", "segmentation-models-pytorch", "numpy", "pillow"),
    }
    write_json(new / SUMMARY, summary)
    return summary


_COLUMNS = ("path", "mask", "from", "area", "parts", "border", "problem")


def _row(record: Record, path: Path, origin: str, mask: Mask, problem: str) -> dict[str, Any]:
    measured = (round(float(mask.mean()), 4), len(lobes(mask)), round(border_share(mask), 4))
    return dict(zip(_COLUMNS, (record.name, path, origin, *measured, problem), strict=True))


def _root(data: DataPath, folder: Path, records: list[Record]) -> Path:
    """Return the folder to which the manifest's paths are relative: it contains all images and masks."""
    images = os.path.realpath(DataSet.of(data).image_folder())
    files = [images, *{str(record.path.parent) for record in records}, str(folder)]
    files += [str(record.lung_mask.parent) for record in records if record.lung_mask is not None]
    return Path(os.path.commonpath(files))
