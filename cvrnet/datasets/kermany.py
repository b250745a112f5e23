"""Chest X-Ray Images (Kermany et al. 2018), doi 10.17632/rscbjbr9sj; on Kaggle paultimothymooney/chest-xray-pneumonia.

The counts are from the page of hf-vision/chest-xray-pneumonia on the Hugging Face Hub. The archive's folder contains a
second copy of itself, which is left out. File names give the patient: ``person1_bacteria_1.jpeg``,
``IM-0115-0001.jpeg``, ``NORMAL2-IM-1427-0001.jpeg``, ``BACTERIA-1135262-0001.jpeg``. The persons in the folder
``test`` are numbered separately. The persons in ``val`` and ``train`` are numbered together, because Kaggle's copy took
the images in ``val`` from ``train``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from cvrnet.datasets.folder import Folder, Row
from cvrnet.datasets.public_set import PublicSet

CLASSES = ("NORMAL", "PNEUMONIA")
_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+|(?:BACTERIA|VIRUS)-\d+)")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest. ``cause`` says whether a pneumonia is bacterial or viral, by the file's name."""
    seen: set[tuple[str, ...]] = set()
    # In order of depth: the second copy of the archive lies deeper.
    for path in sorted(folder.found.images, key=lambda path: (path.count("/"), path)):
        *above, name = PurePosixPath(path).parts
        if len(above) < 2 or above[-2] not in ("train", "val", "test") or above[-1] not in CLASSES:
            folder.left_out["not in train, val or test"] += 1
            continue
        key = (*above[-2:], name)
        if key in seen:
            folder.left_out["a second copy in a deeper folder"] += 1
            continue
        seen.add(key)
        yield {
            "path": path,
            "label": above[-1],
            "source": "kermany",
            "patient_id": patient(name, above[-2]),
            "split": above[-2],
            "cause": next((cause for cause in ("bacteria", "virus") if cause in name.lower()), ""),
        }
    if not seen:
        raise folder.refusal()


def patient(name: str, split: str) -> str:
    """Return the patient id of a file, from its name and split; ``""`` if the name contains no patient.

    >>> patient("person1_bacteria_1.jpeg", "train"), patient("person1_virus_6.jpeg", "test")
    ('person1', 'test-person1')
    >>> patient("NORMAL2-IM-1427-0001.jpeg", "val"), patient("chest.jpeg", "val")
    ('NORMAL2-IM-1427', '')
    """
    found = _PATIENT.match(name)
    return ("test-" if split == "test" else "") + found[1] if found else ""


KERMANY = PublicSet(
    "kermany",
    "Chest X-Ray Images (Pneumonia)",
    "the folders train, val and test, each with NORMAL and PNEUMONIA",
    rows,
    {"split train": 5_216, "split val": 16, "split test": 624},
)
