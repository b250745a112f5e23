"""MIMIC-CXR-JPG (Johnson et al. 2019), https://physionet.org/content/mimic-cxr-jpg.

The names of files and columns are from the page above and from ``MIMIC_Dataset`` of mlmed/torchxrayvision, which also
shows where an image lies: ``files/p10/p10000032/s50414267/DICOM_ID.jpg``. The number of images is from the page above,
the number of patients from the summary at emergentmind.com/topics/mimic-cxr-dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from cvrnet.datasets.chexpert import FINDINGS
from cvrnet.datasets.folder import Folder, Row, days, finding
from cvrnet.datasets.public_set import PublicSet

LABELS, METADATA, SPLIT = (f"mimic-cxr-2.0.0-{part}.csv" for part in ("chexpert", "metadata", "split"))
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest, with a column for each finding of the CheXpert labeller.

    The cell of a finding is 1 (present), 0 (absent), -1 (uncertain) or blank (not known).
    """
    labels = {
        entry["study_id"]: {name: finding(entry[name]) for name in FINDINGS}
        for entry in folder.table(folder.file(LABELS), ("subject_id", "study_id", *FINDINGS))
    }
    splits = {
        entry["dicom_id"]: _SPLITS.get(entry["split"], "")
        for entry in folder.table(folder.file(SPLIT), ("dicom_id", "study_id", "subject_id", "split"))
    }
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate")
    result: list[Row] = []
    dates: list[int | None] = []
    for entry in folder.table(folder.file(METADATA), columns):
        image, patient, study = entry["dicom_id"], entry["subject_id"], entry["study_id"]
        path = folder.image(f"files/p{patient[:2]}/p{patient}/s{study}/{image}.jpg", METADATA)
        if not path:
            continue
        if study not in labels:
            folder.left_out[f"the study has no row in {LABELS}"] += 1
            continue
        result.append(
            {
                "path": path,
                **labels[study],
                "source": "mimic-cxr",
                "patient_id": patient,
                "split": splits.get(image, ""),
                "view": entry["ViewPosition"],
                "study": study,
            }
        )
        dates.append(day_number(entry["StudyDate"]))
    days(result, dates)
    yield from result


def day_number(text: str) -> int | None:
    """Return the ordinal number of a date written as YYYYMMDD; None for other text.

    Only differences between the days of one patient are meaningful, because MIMIC shifts the dates of each patient.

    >>> day_number("21800506") - day_number("21800501")
    5
    """
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
    except ValueError:
        return None


MIMIC = PublicSet(
    "mimic-cxr-jpg",
    "MIMIC-CXR-JPG",
    f"{LABELS}.gz, {METADATA}.gz and {SPLIT}.gz, and the folder files",
    rows,
    {"images": 377_110, "patients": 65_379},
    FINDINGS,
)
