"""Write manifests of public data sets of chest radiographs, from copies on the disk; nothing is downloaded.

Most modules describe one data set: where its authors document it, what its folder contains, and how its tables become
the manifest's rows. `generic` imports any other data set; `folder` and `public_set` are used by all of these modules.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cvrnet.data.boxes import parse_boxes
from cvrnet.data.finding_labels import SEPARATOR
from cvrnet.data.manifest import COLUMNS
from cvrnet.datasets.chexpert import CHEXPERT
from cvrnet.datasets.cohen import COHEN
from cvrnet.datasets.covid_radiography import COVID_RADIOGRAPHY
from cvrnet.datasets.covidx import COVIDX
from cvrnet.datasets.folder import SHOWN, Folder, Row
from cvrnet.datasets.generic import GENERIC
from cvrnet.datasets.generic import rows as generic_rows
from cvrnet.datasets.kermany import KERMANY
from cvrnet.datasets.mimic import MIMIC
from cvrnet.datasets.nih import NIH
from cvrnet.datasets.padchest import PADCHEST
from cvrnet.datasets.public_set import PublicSet
from cvrnet.datasets.rsna import RSNA
from cvrnet.datasets.vindr import VINDR
from cvrnet.errors import UserError
from cvrnet.files import open_regular, write_csv

__all__ = ["PUBLIC_SETS", "Import", "PublicSet", "counts", "import_data_set"]

PUBLIC_SETS = {
    one.name: one
    for one in (*(NIH, CHEXPERT, MIMIC, PADCHEST, RSNA, VINDR, COVIDX, COVID_RADIOGRAPHY, KERMANY, COHEN, GENERIC),)
}
"""Name of a data set -> its description."""
ALIASES = {"paultimothymooney": "kermany"}


@dataclass(frozen=True)
class Import:
    """The result of `import_data_set`.

    Attributes:
        counts: Numbers of images, patients and so on in the manifest (see `counts`).
        published: The counts that the authors have published, with the same keys; unpublished counts are missing.
        left_out: Reason -> number of images that are not in the manifest.
        notes: Sentences for the user, for example about missing files, or about patients in two splits.
        images: The folder that the manifest's paths are relative to; None if this is the manifest's own folder.
    """

    counts: Mapping[str, int]
    published: Mapping[str, int]
    left_out: Mapping[str, int]
    notes: Sequence[str]
    images: Path | None


def import_data_set(
    name: str,
    folder: str | Path,
    output: str | Path,
    *,
    partial: bool = False,
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Import:
    """Write the manifest of a public data set.

    The paths in the manifest are relative to the manifest's folder if the images are below it, otherwise to ``folder``.

    Args:
        name: One of `PUBLIC_SETS`.
        folder: The data set, as its authors distribute it.
        output: The manifest to write.
        partial: Import the files that exist, even if tables or lists name files that are missing.
        columns: For ``generic``: column of the manifest -> column of the CSV file that holds its values.
        overwrite: Replace an existing manifest (a file whose first column is ``path``), but no other file.

    Raises:
        UserError: The folder contains another data set, files are missing, or the manifest exists.
    """
    name = ALIASES.get(name, name)
    if name not in PUBLIC_SETS:
        raise UserError(f"{name!r} is not a data set that can be imported; expected one of {', '.join(PUBLIC_SETS)}")
    if columns and name != GENERIC.name:
        raise UserError(f"--columns is only for the data set 'generic'; leave it out: the columns of {name} are known")
    output, public = Path(os.path.abspath(output)), PUBLIC_SETS[name]
    _check_output(output, overwrite)
    place = Folder(folder, name, public.expects)
    rows = list(generic_rows(place, columns) if name == GENERIC.name else public.rows(place))
    missing = place.missing_sentences()
    if missing and not partial:
        raise UserError(f"{place.root}: {'; '.join(missing)}; --partial imports the files that exist")
    if not rows:
        raise place.refusal("no image can be imported")
    below = place.root.is_relative_to(output.parent)
    prefix = place.root.relative_to(output.parent).as_posix() if below else "."
    _write(output, rows, "" if prefix == "." else f"{prefix}/")
    notes = [*place.notes, *missing, *_shared_patients(rows)]
    found = counts(rows, public.findings)
    return Import(found, public.published, place.left_out, notes, None if below else place.root)


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse to replace a file; with ``overwrite``, refuse only a file that is no manifest, such as another table."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    with open_regular(output) as file:
        if file.read(5) != b"path,":
            raise UserError(f"{output} exists and cvrnet did not write it, so it is not replaced; choose another name")


def counts(rows: Sequence[Row], findings: Sequence[str] = ()) -> dict[str, int]:
    """Count the images, patients and boxes in a manifest's rows.

    The images with boxes, with each split and with each label are also counted. Counts of zero are left out.
    ``findings`` names the columns of findings. For each of these columns, the images with a cell of 1 are counted.

    >>> counts([{"path": "a", "label": "Edema|Mass", "patient_id": "1"}, {"path": "b", "label": "Mass"}])
    {'images': 2, 'patients': 1, 'label Mass': 2, 'label Edema': 1}
    >>> counts([{"path": "a", "Edema": "1", "Mass": "-1"}], ["Edema", "Mass"])
    {'images': 1, 'label Edema': 1}
    """
    boxes = [len(parse_boxes(row.get("lesion_boxes", "")) or ()) for row in rows]
    labels: Counter[str] = Counter()
    for row in rows:
        labels.update(name for name in findings if row[name] == "1")
        labels.update(row.get("label", "").split(SEPARATOR))
    splits = Counter(row.get("split", "") for row in rows)
    found = {
        "images": len(rows),
        "patients": len({row["patient_id"] for row in rows if row.get("patient_id")}),
        **{f"split {split}": splits[split] for split in ("train", "val", "test") if split in splits},
        "images with boxes": sum(map(bool, boxes)),
        "boxes": sum(boxes),
        **{f"label {label}": number for label, number in labels.most_common() if label},
    }
    return {name: number for name, number in found.items() if number}


def _write(output: Path, rows: Sequence[Row], prefix: str) -> None:
    files = ("path", "lung_mask", "lesion_mask")
    placed = [{name: prefix + cell if name in files and cell else cell for name, cell in row.items()} for row in rows]
    used = {name for row in placed for name, cell in row.items() if cell}
    order = dict.fromkeys([*COLUMNS, *(name for row in placed for name in row)])
    columns = [name for name in order if name in used]
    try:
        write_csv(output, ({name: row.get(name, "") for name in columns} for row in placed), columns)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error


def _shared_patients(rows: Sequence[Row]) -> list[str]:
    """Return a sentence, in a list, if some patients are in two official splits; otherwise an empty list."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.get("patient_id") and row.get("split"):
            splits.setdefault(row["patient_id"], set()).add(row["split"])
    shared = [patient for patient, of in splits.items() if len(of) > 1]
    if not shared:
        return []
    return [f"patients in two splits, which training refuses: {len(shared):,} ({', '.join(shared[:SHOWN])})"]
