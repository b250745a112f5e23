"""The COVID-19 image data collection (Cohen et al. 2020), https://github.com/ieee8023/covid-chestxray-dataset.

Columns: that repository's metadata.csv and SCHEMA.md. Its first versions have neither ``folder`` nor ``modality``.
"""

from __future__ import annotations

from collections.abc import Iterator

from cvrnet.datasets.folder import Folder, Row, age, number, sex
from cvrnet.datasets.public_set import PublicSet

COLUMNS = ("patientid", "offset", "sex", "age", "finding", "view", "filename")


def rows(folder: Folder) -> Iterator[Row]:
    """The rows of the manifest.

    ``label`` is the last part of the finding (``COVID-19`` of ``Pneumonia/Viral/COVID-19``), ``day`` the number of days
    since the symptoms or the admission. CTs, and findings that are to be read yet, are left out.
    """
    for entry in folder.table(folder.file("metadata.csv"), COLUMNS):
        if (kind := entry.get("modality", "X-ray")) != "X-ray":
            folder.left_out[f"{kind or 'unknown modality'}, not a radiograph"] += 1
            continue
        label = entry["finding"].rpartition("/")[2].strip()
        if label.lower() in ("", "todo", "unknown"):
            folder.left_out[f"the finding is {entry['finding'] or 'empty'}"] += 1
            continue
        path = folder.image(f"{entry.get('folder') or 'images'}/{entry['filename']}", "metadata.csv")
        if path:
            yield {
                "path": path,
                "label": label,
                "source": "cohen",
                "patient_id": entry["patientid"],
                "view": entry["view"],
                "sex": sex(entry["sex"]),
                "age": age(entry["age"]),
                "day": number(entry["offset"]),
                "finding": entry["finding"],
                "location": entry.get("location", ""),
            }


COHEN = PublicSet(
    "cohen", "COVID-19 image data collection", f"metadata.csv with {', '.join(COLUMNS)}, and the folder images", rows
)
