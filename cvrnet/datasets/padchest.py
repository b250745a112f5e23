"""PadChest (Bustos et al. 2020), https://bimcv.cipf.es/bimcv-projects/padchest.

The names of the table and its columns are from ``PC_Dataset`` of mlmed/torchxrayvision, which also says that some
images have no labels. The number of images is in table 1 of Nguyen et al. 2022 (doi 10.1038/s41597-022-01498-w).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from cvrnet.data.finding_labels import NO_FINDING, SEPARATOR
from cvrnet.datasets.folder import Folder, Row, days, sex
from cvrnet.datasets.mimic import day_number
from cvrnet.datasets.public_set import PublicSet

TABLES = tuple(f"PADCHEST_chest_x_ray_images_labels_160K{date}.csv" for date in ("_01.02.19", ""))
COLUMNS = ("ImageID", "StudyDate_DICOM", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection", "Labels")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest. ``label`` has PadChest's findings, separated by ``|``, or ``No Finding``."""
    table = folder.file(*TABLES)
    result: list[Row] = []
    dates: list[int | None] = []
    for entry in folder.table(table, COLUMNS):
        path = folder.image(entry["ImageID"], table.name)
        if not path:
            continue
        labels = findings(entry["Labels"])
        if not labels or "exclude" in labels or entry["Projection"] == "EXCLUDE":
            folder.left_out["marked exclude" if labels else "no labels"] += 1
            continue
        year, birth = entry["StudyDate_DICOM"][:4], entry["PatientBirth"].removesuffix(".0")
        result.append(
            {
                "path": path,
                "label": SEPARATOR.join(labels),
                "source": "padchest",
                "patient_id": entry["PatientID"],
                "view": entry["Projection"],
                "sex": sex(entry["PatientSex_DICOM"]),
                "age": str(int(year) - int(birth)) if year.isdecimal() and birth.isdecimal() else "",
                "labelled_by": entry.get("MethodLabel", ""),
            }
        )
        dates.append(day_number(entry["StudyDate_DICOM"]))
    days(result, dates)
    yield from result


def findings(cell: str) -> list[str]:
    """Return the findings from a cell with a Python list; if ``normal`` is the only one, return ``No Finding``.

    >>> findings("['pulmonary fibrosis', ' kyphosis', '', 'kyphosis']"), findings("['normal']"), findings("nan")
    (['pulmonary fibrosis', 'kyphosis'], ['No Finding'], [])
    """
    try:
        value = ast.literal_eval(cell) if cell else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    names = [name for item in value if (name := str(item).strip())] if isinstance(value, list) else []
    others = [name for name in dict.fromkeys(names) if name != "normal"]
    return others or [NO_FINDING] * ("normal" in names)


PADCHEST = PublicSet(
    "padchest",
    "PadChest",
    f"{TABLES[0]} (or .csv.gz) with the columns {', '.join(COLUMNS)}",
    rows,
    {"images": 160_868},
)
