"""Write data sets of synthetic studies, each of many pictures: CTs of the chest, and radiographs of several days.

In a CT, only a few slices show the lesion. In a follow-up (a patient's radiographs of several days), the lesions become
denser or fainter from day to day. In reverse order, the films of an improving patient look like the films of a
worsening patient, so only their order shows the label.

These are diagrams, not patients. If a model learns to classify them, this says nothing about CTs or disease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.data.drawing import draw_film
from cvrnet.data.drawing_ct import draw_volume
from cvrnet.data.manifest import MANIFEST
from cvrnet.data.phantoms import STUDY_COLUMNS, new_data_set, patient_name
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.folders import real_folder

VOLUME_LABELS = ("NOR", "NCP")
TREND_LABELS = ("better", "worse")
DAYS = (3, 6)  #: the lowest and the highest number of films of a patient
_SEVERITY = (0.2, 2.0)  # lowest and highest severity of a film
_CHANGE = (0.3, 0.5)  # change of severity from the first film to the last
_GAP = (1, 4)  # days from one film to the next, at least and at most
_EVENT = 3  # most days from the last film to the event

Row = dict[str, str]
Draw = Callable[[Path, int, int, int], Iterator[Row]]


def write_studies(
    folder: str | Path,
    kind: str,
    n: int = 120,
    *,
    seed: int = 0,
    size: int = 128,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write a study of each of `n` patients, and return the manifest's path.

    - ``volumes``: CTs of 20 to 60 slices each. ``NOR`` has no lesion. ``NCP`` (every second patient) has one lesion, in
      3 to 6 slices.
    - ``follow-up``: three to six films of each patient, of different days, all with ground-glass patches (``CVP`` of
      `cvrnet.data.phantoms`). The patches become fainter (``better``) or denser (``worse``, every second patient).
      Severity differs more between patients than between the films of a patient, so a single film says little about the
      label. The manifest has the columns ``day`` (day 0 is the first film) and ``event_day``: patients with the label
      ``worse`` have an event zero to three days after their last film.

    The folder gets ``images/<patient>/<name>.png`` (8-bit grey; CTs as in a lung window), ``lungs/<name>.png``,
    ``lesions/<name>.png`` for the pictures with a lesion, and ``manifest.csv`` with the column ``study_id``. Equal
    arguments give equal bytes, and a patient's pictures do not depend on `n`.

    Args:
        folder: A new or empty folder or, with ``overwrite``, an earlier data set of phantoms.
        kind: ``volumes`` or ``follow-up``.
        n: Number of studies, at least 12.
        seed: Seed of the random numbers, not negative.
        size: Height and width of a picture in pixels, at least 64.
        overwrite: Replace the earlier data set when the new data set is complete.
        progress: Called after each study with the number of studies done, and `n`.

    Raises:
        UserError: An argument is out of range, the folder contains files that are not phantoms, or it contains phantoms
            and ``overwrite`` is false.
    """
    draw, folder = _KINDS[kind], real_folder(folder)
    for name, value, least in (("n", n, 12), ("size", size, 64), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name}={value} is too small; expected at least {least}")

    def rows() -> Iterator[Row]:
        for patient in range(1, n + 1):
            (new / "images" / patient_name(seed, patient)).mkdir(parents=True)
            yield from draw(new, seed, patient, size)
            if progress is not None:
                progress(patient, n)

    with new_data_set(folder, overwrite) as new:
        for sub in ("lungs", "lesions"):
            (new / sub).mkdir(parents=True)
        write_csv(new / MANIFEST, rows(), STUDY_COLUMNS)
    return folder / MANIFEST


def _volume(root: Path, seed: int, patient: int, size: int) -> Iterator[Row]:
    label = VOLUME_LABELS[patient % 2]
    row = _study(seed, patient, label) | {"modality": "CT"}
    for number, drawn in enumerate(draw_volume(label != "NOR", seed=seed, patient=patient, size=size), start=1):
        yield row | _save(root, row["study_id"], number, *drawn)


def _follow_up(root: Path, seed: int, patient: int, size: int) -> Iterator[Row]:
    rng = np.random.default_rng([seed, 9, patient])
    label = TREND_LABELS[patient % 2]
    count = int(rng.integers(DAYS[0], DAYS[1] + 1))
    change = rng.uniform(*_CHANGE)
    lowest = rng.uniform(_SEVERITY[0], _SEVERITY[1] - change)
    inner = np.sort(rng.uniform(0, 1, count - 2))
    severities = lowest + change * np.array([0, *inner, 1])
    days = np.concatenate([[0], rng.integers(_GAP[0], _GAP[1] + 1, count - 1).cumsum()])
    row = _study(seed, patient, label) | {"modality": "DX"}
    if label == "worse":
        row["event_day"] = str(days[-1] + np.random.default_rng([seed, 10, patient]).integers(_EVENT + 1))
    for number, (day, severity) in enumerate(
        zip(days, severities if label == "worse" else severities[::-1], strict=True), start=1
    ):
        film = {"patient": patient, "image": 10 * patient + number}
        drawn = draw_film("CVP", seed=seed, size=size, severity=float(severity), **film)
        yield row | {"day": str(day)} | _save(root, row["study_id"], number, *drawn)


_KINDS: dict[str, Draw] = {"volumes": _volume, "follow-up": _follow_up}


def _study(seed: int, patient: int, label: str) -> Row:
    name = patient_name(seed, patient)
    return {"label": label, "patient_id": name, "study_id": f"{name}-1"}


def _save(root: Path, study: str, number: int, picture: np.ndarray, lungs: np.ndarray, lesion: np.ndarray) -> Row:
    """Write the files of one picture; return the manifest's cells that name these files."""
    name = f"{study}-{number}.png"
    row = {"path": f"images/{study.rpartition('-')[0]}/{name}", "lung_mask": f"lungs/{name}"}
    Image.fromarray(picture).save(root / row["path"])
    Image.fromarray(lungs).save(root / row["lung_mask"])
    if lesion.any():
        row["lesion_mask"] = f"lesions/{name}"
        Image.fromarray(lesion).save(root / row["lesion_mask"])
    return row
