"""Images for checking and calibrating an export, as the network gets them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cvrnet.data import (
    ImageError,
    Preprocessing,
    Record,
    check_classes,
    read_image,
    read_records,
    scan_records,
    write_phantoms,
)
from cvrnet.errors import UserError

CHECKED = 16
"""Images that an export is compared on."""


def check_pixels(preprocessing: Preprocessing, data: Sequence[Path | None]) -> tuple[np.ndarray, str]:
    """Pixels of a few images of the first of these data sets that can be read, else of phantoms; and what they are.

    Args:
        preprocessing: What is done to the images.
        data: Data sets; None is passed over. The first is the user's choice: it must be readable.
    """
    for place, source in enumerate(data):
        if source is None or (place and not source.exists()):
            continue
        try:
            records = read_records(source, labelled=False)
        except UserError:
            if place == 0:
                raise
            continue
        chosen = [records[i * len(records) // CHECKED] for i in range(min(CHECKED, len(records)))]
        if batches := list(pixel_batches(chosen, preprocessing, CHECKED)):
            return batches[0], f"{len(batches[0])} images of {'the given data' if place == 0 else 'the training data'}"
        if place == 0:
            raise UserError(f"{source}: none of the first {len(chosen)} images can be read")
    with tempfile.TemporaryDirectory() as folder:
        made = write_phantoms(Path(folder) / "phantoms", CHECKED, size=max(64, *preprocessing.input_size[1:]))
        pixels = next(pixel_batches(read_records(made), preprocessing, CHECKED))
    return pixels, f"{len(pixels)} phantoms (synthetic images)"


def pixel_batches(
    records: Sequence[Record], preprocessing: Preprocessing, batch_size: int = 8, labels: list[str] | None = None
) -> Iterator[np.ndarray]:
    """uint8 (N, C, H, W), batch by batch; images that cannot be read are left out.

    Args:
        records: The images.
        preprocessing: What is done to them.
        batch_size: Images a batch.
        labels: Each given image's label is appended to these.
    """
    batch: list[np.ndarray] = []
    for record in records:
        try:
            image = preprocessing.resize(read_image(record.path, preprocessing.mode))
        except ImageError:
            continue
        batch.append(image.transpose(2, 0, 1))
        if labels is not None:
            labels.append(record.label)
        if len(batch) == batch_size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def split_calibration(
    data: Path, count: int, most: int, classes: Sequence[str], seed: int = 0
) -> tuple[list[Record], list[Record]]:
    """Images for calibration, and others, of other patients, for evaluation.

    Args:
        data: Folder with one sub-folder a class, CSV manifest, or folder of images without labels.
        count: Images for calibration; at most half of all.
        most: Images for evaluation, at most.
        classes: The model's.
        seed: Of the choice.

    Raises:
        UserError: The data cannot be used, or has labels that are none of the model's.
    """
    records, problems = scan_records(data, min_classes=1)
    if problems:
        records = read_records(data, labelled=False)
    check_classes((r.label for r in records if r.label), classes)
    patients: dict[str, list[Record]] = {}
    for i, record in enumerate(records):
        patients.setdefault(f"id {record.patient_id}" if record.patient_id else f"row {i}", []).append(record)
    order = list(patients)
    generator = random.Random(seed)
    generator.shuffle(order)
    count = min(count, len(records) // 2)
    calibration: list[Record] = []
    while order and len(calibration) < count:
        calibration += patients[order.pop()]
    others = [record for patient in order for record in patients[patient]]
    generator.shuffle(others)
    return calibration[:count], others[:most]
