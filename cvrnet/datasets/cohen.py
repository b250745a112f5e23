"""The COVID-19 image data collection (Cohen et al. 2020), https://github.com/ieee8023/covid-chestxray-dataset.

The columns are from metadata.csv and SCHEMA.md of that repository. The first versions of metadata.csv have neither
``folder`` nor ``modality``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cvrnet.datasets.folder import Folder, Row, age, number, sex
from cvrnet.datasets.public_set import PublicSet

LEAST_PATIENTS = 5  # in each class: one for each of five folds; rarer classes are merged into their parent class
COLUMNS = ("patientid", "offset", "sex", "age", "finding", "view", "filename")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest.

    ``label`` is the last part of the finding (``COVID-19`` of ``Pneumonia/Viral/COVID-19``) after rare last parts are
    removed; see `common_parts`. ``day`` is the number of days since the first symptoms or since the admission; the
    collection does not say which. ``went_icu`` (Y or N) says whether the patient was in intensive care during the
    stay, and ``in_icu`` whether the patient was there on the day of the film. CTs, and images without a known finding,
    are left out.
    """
    found: list[Row] = []
    for entry in folder.table(folder.file("metadata.csv"), COLUMNS):
        if (kind := entry.get("modality", "X-ray")) != "X-ray":
            folder.left_out[f"{kind or 'unknown modality'}, not a radiograph"] += 1
            continue
        if entry["finding"].lower() in ("", "todo", "unknown"):
            folder.left_out[f"the finding is {entry['finding'] or 'empty'}"] += 1
            continue
        path = folder.image(f"{entry.get('folder') or 'images'}/{entry['filename']}", "metadata.csv")
        if path:
            found.append(
                {
                    "path": path,
                    "label": "",
                    "source": "cohen",
                    "patient_id": entry["patientid"],
                    "view": entry["view"],
                    "sex": sex(entry["sex"]),
                    "age": age(entry["age"]),
                    "day": number(entry["offset"]),
                    "finding": entry["finding"],
                    "location": entry.get("location", ""),
                    "went_icu": entry.get("went_icu", ""),
                    "in_icu": entry.get("in_icu", ""),
                }
            )
    labels = common_parts([row["finding"] for row in found], [row["patient_id"] for row in found])
    for row in found:
        yield row | {"label": labels[row["finding"]]}


def common_parts(findings: Sequence[str], patients: Sequence[str], least: int = LEAST_PATIENTS) -> Mapping[str, str]:
    """Map each finding to its class: its last part, after rare last parts are removed.

    The last part of a finding is rare if fewer than ``least`` patients have this finding. In the example, ``B`` and
    ``C`` are rare. Without ``B``, the finding of patient 3 is ``P/Viral``. No other patient has this finding, so
    ``Viral`` is removed, too. The first part is never removed.

    >>> common_parts(["P/Viral/A", "P/Viral/A", "P/Viral/B", "P/Fungal/C"], ["1", "2", "3", "4"], 2)
    {'P/Viral/A': 'A', 'P/Viral/B': 'P', 'P/Fungal/C': 'P'}
    """
    path = {finding: [part.strip() for part in finding.split("/")] for finding in findings}
    for depth in range(max(map(len, path.values()), default=0), 1, -1):
        members: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        for finding, patient in zip(findings, patients, strict=True):
            members[tuple(path[finding])].add(patient)
        for parts in path.values():
            if len(parts) == depth and len(members[tuple(parts)]) < least:
                parts.pop()
    return {finding: parts[-1] for finding, parts in path.items()}


COHEN = PublicSet(
    "cohen",
    "COVID-19 image data collection",
    f"metadata.csv with the columns {', '.join(COLUMNS)}; and the folder images",
    rows,
)
