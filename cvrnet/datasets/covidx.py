"""COVIDx (Wang et al. 2020), https://github.com/lindawangg/COVID-Net (docs/COVIDx.md, labels/).

A text file, such as ``train.txt``, lists the images of a split. Each of its lines is ``patient file class`` or, from
COVIDx3 on, ``patient file class source``. The images lie in the folders ``train``, ``val`` and ``test``. The
counts in ``published`` are those of COVIDx CXR-3A.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cvrnet.datasets.folder import Folder, Row
from cvrnet.datasets.public_set import PublicSet
from cvrnet.errors import UserError

_LABELS = ("normal", "pneumonia", "COVID-19", "positive", "negative", "viral", "bacteria")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest. ``source`` is the collection that an image comes from, if the list names it.

    Patient numbers start again in each source, so the source is a part of the patient's id.
    """
    for split in ("train", "val", "test"):
        for line in folder.lines(_list(folder, split)):
            words = line.split()
            source = words.pop() if words[-1] not in _LABELS else ""
            if len(words) < 3 or words[-1] not in _LABELS:
                raise folder.refusal(f"in the list of the {split} images, this line has another form: {line!r:.80}")
            patient, label = words[0], words[-1]
            name = line.removesuffix(source).rstrip().removesuffix(label).strip().removeprefix(patient).strip()
            if path := folder.image(f"{split}/{name}", f"the list of {split}"):
                yield {
                    "path": path,
                    "label": label,
                    "source": source or "covidx",
                    "patient_id": f"{source}-{patient}" if source else patient,
                    "split": split,
                }


def _list(folder: Folder, split: str) -> Path | None:
    """Return the file that lists a split: for test, ``test.txt`` or the only ``test_*.txt``; None if there is none.

    Raises:
        UserError: Several files list the split, or no file lists train.
    """
    if (path := folder.root / f"{split}.txt").is_file():
        return path
    paths = sorted(folder.root.glob(f"{split}_*.txt"))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(
            f"{folder.root}: each of {names} can be the list of {split} images; copy the right one to {split}.txt"
        )
    if not paths and split == "train":
        raise folder.refusal("there is no train.txt or train_*.txt")
    return paths[0] if paths else None


COVIDX = PublicSet(
    "covidx",
    "COVIDx CXR (published: CXR-3A)",
    "train.txt and test.txt with lines such as 'patient file class source', and the folders train and test",
    rows,
    {
        "split train": 29_634,
        "split test": 400,
        "label normal": 8_185,
        "label pneumonia": 5_655,
        "label COVID-19": 16_194,
    },
)
