"""The RSNA Pneumonia Detection Challenge (Shih et al. 2019), kaggle.com/c/rsna-pneumonia-detection-challenge.

The header and counts of the table of boxes are from the copy in TorchXRayVision
(``kaggle_stage_2_train_labels.csv.zip``). TorchXRayVision also shows what the DICOM tags contain. The table of classes
(``patientId,class``) and its counts are in many public repositories. For example, the description of the COVID-19
Radiography Database (see `cvrnet.datasets.covid_radiography`) gives 8,851 normal images and 6,012 with lung opacity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from cvrnet.data.boxes import boxes_text
from cvrnet.data.image import dicom_module
from cvrnet.data.limits import Refused
from cvrnet.datasets.folder import Folder, Row, age, numbers, sex
from cvrnet.datasets.public_set import PublicSet

BOXES, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
_BOX = ("x", "y", "width", "height")
_TAGS = ("ViewPosition", "PatientSex", "PatientAge")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest. ``label`` is the class: Normal, No Lung Opacity / Not Normal, or Lung Opacity."""
    classes = {e["patientId"]: e["class"] for e in folder.table(folder.file(CLASSES), ("patientId", "class"))}
    boxes: defaultdict[str, list[list[float]]] = defaultdict(list)
    for entry in folder.table(folder.file(BOXES), ("patientId", *_BOX, "Target")):
        if entry["Target"] == "1":
            boxes[entry["patientId"]].append(numbers(entry, _BOX, BOXES))
    for image, label in classes.items():
        if path := folder.image(f"stage_2_train_images/{image}.dcm", CLASSES):
            yield {
                "path": path,
                "label": label,
                "source": "rsna",
                "patient_id": image,
                "lesion_boxes": boxes_text(boxes[image]),
                **_tags(folder, folder.root / path),
            }
    if tests := sum(path.startswith("stage_2_test_images/") for path in folder.images):
        folder.left_out["in stage_2_test_images, which has no labels"] += tests


def _tags(folder: Folder, path: Path) -> Row:
    """Return view, sex and age from a file's tags; ``{}``, with a note in ``folder``, if they cannot be read."""
    try:
        dicom = dicom_module()
        with dicom.quiet():
            header = dicom.read_header(path, _TAGS)
            view, patient_sex, patient_age = (dicom.tag_text(header, name) for name in _TAGS)
    except (Refused, OSError) as error:
        note = f"view, sex and age of some files could not be read: {error}"
        if not folder.notes:
            folder.notes.append(note)
        return {}
    return {"view": view, "sex": sex(patient_sex), "age": age(patient_age)}


RSNA = PublicSet(
    "rsna",
    "RSNA Pneumonia Detection Challenge",
    f"{BOXES} with the columns patientId, {', '.join(_BOX)}, Target; {CLASSES} with the columns patientId, class; "
    "and the folder stage_2_train_images",
    rows,
    {
        "images": 26_684,
        "boxes": 9_555,
        "label Normal": 8_851,
        "label No Lung Opacity / Not Normal": 11_821,
        "label Lung Opacity": 6_012,
    },
)
