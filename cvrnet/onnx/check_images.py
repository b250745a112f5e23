"""Read and preprocess the images on which an export is checked or calibrated."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from cvrnet.data import ImageError, Preprocessing, Record, check_classes, read_records, scan_records
from cvrnet.data.data_set import DataPath
from cvrnet.data.findings import finding_truth, label_findings
from cvrnet.data.phantoms import write_phantoms
from cvrnet.data.splits import patient_keys
from cvrnet.errors import UserError
from cvrnet.formatting import count

CHECKED = 16  # number of images on which an export is compared with PyTorch


def readable_images(records: Iterable[Record], preprocessing: Preprocessing) -> Iterator[tuple[Record, np.ndarray]]:
    """Yield each record with its image, uint8 (C, H, W); skip images that cannot be read."""
    for record in records:
        with suppress(ImageError):
            image = preprocessing.resize(preprocessing.read(record.path))
            yield record, image.transpose(2, 0, 1)


def check_pixels(
    preprocessing: Preprocessing, given: DataPath | None, trained_on: DataPath | None
) -> tuple[np.ndarray, str]:
    """Return up to 16 images, uint8 (N, C, H, W), and a phrase that says where the images come from.

    The images come from `given`, the user's data set. If the user gave none, they come from `trained_on`, the data set
    of the training. If that data set cannot be read, the images are phantoms (synthetic images).

    Raises:
        UserError: The user gave a data set, and none of its images can be read.
    """
    if given:
        if len(pixels := _sample(given, preprocessing)):
            return pixels, f"{count(len(pixels), 'image')} of the given data"
        raise UserError(f"{given}: cannot read any of the images on which the export would be checked")
    if trained_on and Path(trained_on).exists():
        with suppress(UserError):
            if len(pixels := _sample(trained_on, preprocessing)):
                return pixels, f"{count(len(pixels), 'image')} of the training data"
    with tempfile.TemporaryDirectory() as folder:
        size = max(64, *preprocessing.input_size[1:])
        pixels = _sample(write_phantoms(Path(folder) / "phantoms", CHECKED, size=size), preprocessing)
    return pixels, f"{len(pixels)} phantoms (synthetic images)"


def _sample(data: DataPath, preprocessing: Preprocessing) -> np.ndarray:
    """Return up to `CHECKED` images, evenly spaced in a data set; an array of length 0 if none can be read."""
    records = read_records(data, labelled=False)
    chosen = [records[i * len(records) // CHECKED] for i in range(min(CHECKED, len(records)))]
    return np.array([image for _, image in readable_images(chosen, preprocessing)])


def split_calibration(
    data: DataPath, count: int, most: int, classes: Sequence[str], task: str = "multiclass"
) -> tuple[list[Record], list[Record]]:
    """Choose `count` images for calibration, and up to `most` images of other patients for evaluation.

    At most half of all images of the data set are chosen for calibration.

    The data are a folder with one sub-folder per class, a CSV manifest, or a folder of images without labels. A label
    that is not among the model's classes is an error. For a model of findings, each image gets 1, 0 or None (not known)
    for each finding of the model.
    """
    if task == "multilabel":
        records = read_records(data, labelled=False)
        records = label_findings(records, classes, finding_truth(records, classes))
    else:
        records, problems = scan_records(data, min_classes=1)
        if problems:
            records = read_records(data, labelled=False)
        check_classes((r.label for r in records if r.label), classes)
    patients: dict[str, list[Record]] = {}
    for patient, record in zip(patient_keys(records), records, strict=True):
        patients.setdefault(patient, []).append(record)
    order = list(patients)
    generator = random.Random(0)
    generator.shuffle(order)
    count = min(count, len(records) // 2)
    calibration: list[Record] = []
    while order and len(calibration) < count:
        calibration += patients[order.pop()]
    others = [record for patient in order for record in patients[patient]]
    generator.shuffle(others)
    return calibration[:count], others[:most]
