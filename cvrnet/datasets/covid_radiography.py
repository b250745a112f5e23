"""The COVID-19 Radiography Database (Chowdhury et al. 2020, Rahman et al. 2021), kaggle.com/datasets/tawsifurrahman.

The folders and counts are from the description on Kaggle, as copied in the README of Zahid8/MLOps-for-Good-Hackathon.
Each class has the folders ``images`` and ``masks`` (of the lungs). The spreadsheets beside them are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from cvrnet.datasets.folder import Folder, Row
from cvrnet.datasets.public_set import PublicSet

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest, with masks of the lungs. Patients are not known."""
    masks = set(folder.found.masks)
    here = [path for path in folder.found.images if _class(path)]
    if not {_class(path) for path in here} >= {"COVID", "Normal"}:
        raise folder.refusal()
    for path in sorted(here):
        mask = str(PurePosixPath(path).parent.with_name("masks") / PurePosixPath(path).name)
        row = {"path": path, "label": _class(path), "source": "covid-radiography"}
        yield row | ({"lung_mask": mask} if mask in masks else {})
    if rest := len(folder.images) - len(here):
        folder.left_out["not in the images folder of a class"] += rest
    folder.notes.append(
        "the classes come from different collections, which the folders do not name: look for shortcuts with "
        "cvrnet audit"
    )


def _class(path: str) -> str:
    """Return the class of an image at ``.../CLASS/images/NAME``; ``""`` for other images."""
    above = PurePosixPath(path).parts[-3:-1]
    return above[0] if len(above) == 2 and above[0] in CLASSES and above[1] == "images" else ""


COVID_RADIOGRAPHY = PublicSet(
    "covid-radiography",
    "COVID-19 Radiography Database",
    f"the folders {', '.join(CLASSES)}, each with images and masks",
    rows,
    {"label COVID": 3_616, "label Lung_Opacity": 6_012, "label Normal": 10_192, "label Viral Pneumonia": 1_345},
)
