"""CheXpert (Irvin et al. 2019), https://stanfordmlgroup.github.io/competitions/chexpert.

The header and the counts of the training table are from the copy in TorchXRayVision
(``torchxrayvision/data/chexpert_train.csv.gz``); the number of validation images is on the page of
danjacobellis/chexpert on the Hugging Face Hub. Paths begin with the name of the release
(``CheXpert-v1.0-small/train/patient00001/...``).
"""

from __future__ import annotations

from collections.abc import Iterator

from cvrnet.datasets.folder import Folder, Row, age, finding, sex
from cvrnet.datasets.public_set import PublicSet

FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest, with a column for each finding: 1, 0, -1 (uncertain) or blank (not mentioned)."""
    tables = (("train", folder.file("train.csv")), ("val", folder.optional("valid.csv")))
    for split, table in tables:
        for entry in folder.table(table, COLUMNS):
            path = entry["Path"].partition("/")[2]
            if not folder.image(path, f"the table of {split}"):
                continue
            years = age(entry["Age"])
            patient, study = ([part for part in path.split("/") if part.startswith(p)] for p in ("patient", "study"))
            yield {
                "path": path,
                **{name: finding(entry[name]) for name in FINDINGS},
                "source": "chexpert",
                "patient_id": patient[0] if patient else "",
                "split": split,
                "view": entry["AP/PA"] or entry["Frontal/Lateral"],
                "sex": sex(entry["Sex"]),
                "age": "" if years == "0" else years,  # 0 stands for an unknown age
                "study": study[0] if study else "",
            }


CHEXPERT = PublicSet(
    "chexpert",
    "CheXpert",
    f"train.csv with the columns {', '.join(COLUMNS[:5])} and the findings, such as {', '.join(FINDINGS[:3])}",
    rows,
    {"split train": 223_414, "split val": 234},
    FINDINGS,
)
