"""VinDr-CXR (Nguyen et al. 2022), https://physionet.org/content/vindr-cxr.

The counts, and the number of radiologists who read an image, are from https://vindr.ai/datasets/cxr. The names of
the files are from public code that reads them: ``annotations/``, and the folders ``train`` and ``test`` with
``IMAGE_ID.dicom``. One finding is called ``Other diseases`` in the training table and ``Other disease`` in the test
table. The tables do not contain patient ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cvrnet.data.boxes import boxes_text
from cvrnet.datasets.folder import Folder, Row, numbers
from cvrnet.datasets.public_set import PublicSet

FINDINGS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest, with a column for each finding.

    Three radiologists read each training image: 1 means that two or three of them saw the finding, -1 (uncertain) that
    one did, and 0 that none did. The labels of test images are a consensus. All radiologists' boxes are kept.
    """
    for split, find in (("train", folder.file), ("test", folder.optional)):
        name = f"image_labels_{split}.csv"
        votes: defaultdict[str, list[Row]] = defaultdict(list)
        for entry in folder.table(find(f"annotations/{name}", name), ("image_id", *_ASKED)):
            votes[entry["image_id"]].append(entry)
        first = next(iter(votes.values()), [{}])[0]
        if absent := [finding for finding in FINDINGS if first and not _cell(finding, first)]:
            folder.notes.append(f"{name} has no values for {', '.join(absent)}: the manifest's cells stay empty")
        boxes = _boxes(folder, f"annotations_{split}.csv")
        for image, readers in votes.items():
            if path := folder.image(f"{split}/{image}.dicom", name):
                yield {
                    "path": path,
                    **{finding: _joined(finding, readers) for finding in FINDINGS},
                    "source": "vindr-cxr",
                    "split": split,
                    "view": "PA",
                    "lesion_boxes": boxes_text(boxes[image]),
                }


_ASKED = FINDINGS[:3]  # columns by which the table is recognised


def _joined(finding: str, readers: list[Row]) -> str:
    """Return a finding's cell, from the rows of the radiologists who read the image; ``""`` if the table lacks it."""
    if not all(cells := [_cell(finding, reader) for reader in readers]):
        return ""
    seen = sum(cell.startswith("1") for cell in cells)
    return "1" if 2 * seen > len(readers) else "-1" if seen else "0"


def _cell(finding: str, reader: Row) -> str:
    return reader.get(finding, reader.get("Other disease", "") if finding == "Other diseases" else "")


def _boxes(folder: Folder, name: str) -> defaultdict[str, list[list[float]]]:
    boxes: defaultdict[str, list[list[float]]] = defaultdict(list)
    table = folder.optional(f"annotations/{name}", name)
    for entry in folder.table(table, ("image_id", "class_name", *_CORNERS)):
        if entry["x_min"]:  # images without a finding have a row without a box
            left, top, right, bottom = numbers(entry, _CORNERS, name)
            boxes[entry["image_id"]].append([left, top, right - left, bottom - top])
    return boxes


VINDR = PublicSet(
    "vindr",
    "VinDr-CXR",
    f"annotations/image_labels_train.csv with the columns image_id, {', '.join(_ASKED)}, ...; and the folder train",
    rows,
    {"images": 18_000, "split train": 15_000, "split test": 3_000},
    FINDINGS,
)
