"""Write data sets of synthetic frontal chest radiographs, with masks of lungs and lesions, for tests and a quick start.

`cvrnet.data.drawing` simulates the anatomy (lungs of varying shape, diaphragm, mediastinum, heart, bones, vessels) and
the film (pose, exposure, noise). Films of the class `NOR` show clear lungs, `NCP` one focal consolidation in one lung,
and `CVP` ground-glass patches in both lungs, at the lungs' outer edges and mostly in their lower halves. Without the
option ``shortcut``, the part of a film outside the lungs says nothing about the film's label. A lesion makes a
film slightly brighter, but the films differ so much in exposure that the mean brightness says little about the label.

These are diagrams, not patients. If a model learns to classify them, this says nothing about radiographs or disease.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from cvrnet.data.drawing import draw_film
from cvrnet.data.manifest import MANIFEST
from cvrnet.errors import UserError
from cvrnet.files import write_csv
from cvrnet.folders import check_renamable, entries, lock_folder, made_aside, new_folder, real_folder, recover

LABELS = ("NOR", "NCP", "CVP")
MARKER_BOX = (0.04, 0.04, 0.13, 0.15)
"""Place of the marker that `write_phantoms` draws with ``shortcut``: left, top, right, bottom as fractions of the
image's width and height."""

COLUMNS = ("path", "label", "source", "patient_id", "view", "lung_mask", "lesion_mask")
STUDY_COLUMNS = ("path", "label", "patient_id", "study_id", "day", "event_day", "modality", "lung_mask", "lesion_mask")
"""Columns of the manifests that `cvrnet.data.phantom_studies` writes."""
_IMAGES_PER_PATIENT = (1, 2, 1, 3)  # in the first four turns of `_plan`; later turns repeat these numbers
_FILE = re.compile(r"(images/[^/]+|lungs|lesions)/(s\d+-)?p\d+-\d+(-\d+)?\.png|manifest\.csv|\.manifest\.csv\.\w+\.tmp")
# Patients come in triples (see `_plan`). In this share of the triples with several images per patient, two patients
# exchange the labels of their last images; such patients are 4 % of all patients.
_TWO_LABELS = 0.12
_LETTER = ("11110", "10001", "10001", "11110", "10100", "10010", "10001")  # an R


def write_phantoms(
    folder: str | Path,
    n: int = 300,
    *,
    seed: int = 0,
    size: int = 256,
    sources: Sequence[str] = ("site-a", "site-b"),
    shortcut: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Write a data set of `n` synthetic chest radiographs and return its manifest's path.

    The folder gets `images/<source>/<name>.png` (8-bit grey), `lungs/<name>.png` and, where there is a lesion,
    `lesions/<name>.png` (1-bit masks of the image's size), and `manifest.csv`. Labels are balanced. A patient has one
    to three images, all from one source. An image has one label; in about one patient of 25, the last image has another
    label than the images before it. Data sets made with different seeds share no patient id. Sources differ in
    contrast, noise and the image's width, in the same way for all labels. The same arguments give the same bytes. Image
    i depends on the seed and on i, not on `n`. The folder appears when it is complete, or not at all.

    Args:
        folder: A new or empty folder or, with ``overwrite``, an earlier data set that this function wrote.
        n: Number of images, at least 12.
        seed: Seed of the random numbers, not negative.
        size: Height of the images in pixels, at least 64. Their width is within 10 % of it.
        sources: Two names or more; they become folder names.
        shortcut: Tie the label to the first source: nine in ten CVP patients, but only one in ten of the other
            patients, come from this source (the label of a patient's first image counts). Mark the images of this
            source with a white R in a white frame at `MARKER_BOX`, above the patient's right shoulder. Patients, labels
            and lesions do not depend on `shortcut`. Without `shortcut`, label and source are independent.
        overwrite: Replace the earlier data set when the new data set is complete.
        progress: Called after each image with the number of images done, and `n`.

    Raises:
        UserError: An argument is out of range, the folder contains files that are not phantoms, or it contains phantoms
            and ``overwrite`` is false.
    """
    folder = real_folder(folder)
    _check(n, seed, size, sources)

    def rows() -> Iterator[dict[str, str]]:
        for film in islice(_plan(seed, len(sources), shortcut), n):
            yield _write_film(new, film, seed, size, sources[film.source], marked=shortcut and film.source == 0)
            if progress is not None:
                progress(film.index + 1, n)

    with new_data_set(folder, overwrite) as new:
        for sub in ("lungs", "lesions", *(f"images/{source}" for source in sources)):
            (new / sub).mkdir(parents=True)
        write_csv(new / MANIFEST, rows(), COLUMNS)
    return folder / MANIFEST


@contextmanager
def new_data_set(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield the path of a new folder; when the ``with`` block ends without an error, this folder replaces `folder`.

    Raises:
        UserError: `folder` contains files that are not part of a phantom data set, or it contains phantoms and
            ``overwrite`` is false.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_folder(folder))
        recover(folder)
        _check_folder(folder, overwrite)
        yield stack.enter_context(made_aside(folder))


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder with files that are not phantoms; remove the unfinished data set of a killed process."""
    if folder.is_file():
        raise UserError(f"{folder} exists and is not a folder; choose another folder")
    if entries(folder):
        _check_ours(folder)
        manifest = folder / MANIFEST
        text = manifest.read_text(encoding="utf-8", errors="replace") if manifest.is_file() else ""
        if text.partition("\n")[0] not in (",".join(COLUMNS), ",".join(STUDY_COLUMNS)):
            raise UserError(f"{folder} has a manifest that `cvrnet phantoms` did not write; choose another folder")
        if not overwrite:
            raise UserError(f"{folder} holds phantoms already; --overwrite replaces them")
        check_renamable(folder)
    if (new := new_folder(folder)).exists():
        _check_ours(new)
        shutil.rmtree(new)


def _check_ours(folder: Path) -> None:
    """Refuse to replace a folder that contains a file which `write_phantoms` does not write."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and not _FILE.fullmatch(name):
            raise UserError(f"{folder} holds {name}, which `cvrnet phantoms` did not write; choose another folder")


def _check(n: int, seed: int, size: int, sources: Sequence[str]) -> None:
    # At least 12 images, so each of the three classes has several patients. Below 64 pixels, lesions are not visible.
    for name, value, least in (("n", n, 12), ("size", size, 64), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name}={value} is too small; expected at least {least}")
    if isinstance(sources, str) or len(set(sources)) < max(2, len(sources)):
        raise UserError(f"sources={sources!r}: expected two or more names, all different")
    for source in sources:
        if not re.fullmatch(r"\w[\w.-]*", source):
            raise UserError(
                f"source {source!r} cannot be the name of a folder; expected a letter, a digit or '_', then letters, "
                "digits, '.', '_' and '-'"
            )


@dataclass(frozen=True)
class _Film:
    """One image to draw."""

    index: int
    patient: int
    number: int  # among the patient's images, counted from 1
    label: str
    source: int


def _plan(seed: int, n_sources: int, shortcut: bool) -> Iterator[_Film]:
    """Yield films in an endless sequence.

    Patients come in triples: one patient of each label, all with the same number of images and, without ``shortcut``,
    from the same source. So labels and numbers of images are independent by construction, and so are labels and
    sources without ``shortcut``. In a few triples, two patients exchange the labels of their last images, as if they
    fell ill or recovered between two images.
    """
    index = 0
    for triple in count():
        turn, place = divmod(triple, n_sources)  # in each turn every source gets one triple
        rng = np.random.default_rng([seed, 0, 0, triple])
        source = int(np.random.default_rng([seed, 0, 1, turn]).permutation(n_sources)[place])
        images = _IMAGES_PER_PATIENT[turn % len(_IMAGES_PER_PATIENT)]
        first = [LABELS[k] for k in rng.permutation(3)]
        last = [first[1], first[0], first[2]] if images > 1 and rng.random() < _TWO_LABELS else first
        for k in range(3):
            if shortcut:
                # Of ten patients of a label (in ten triples), one is from a source that the label is not tied to.
                odd = np.random.default_rng([seed, 0, 2, triple // 10]).integers(10, size=3)
                usual = triple % 10 != odd[LABELS.index(first[k])]
                source = 0 if usual == (first[k] == "CVP") else int(rng.integers(1, n_sources))
            for number in range(1, images + 1):
                yield _Film(index, 3 * triple + k + 1, number, last[k] if number == images else first[k], source)
                index += 1


def _write_film(root: Path, film: _Film, seed: int, size: int, source: str, *, marked: bool) -> dict[str, str]:
    """Write one film's files; return its row of the manifest."""
    which = {"patient": film.patient, "image": film.index, "look": film.source}
    image, lungs, lesion = draw_film(film.label, seed=seed, size=size, **which)
    if marked:
        _mark(image)
    patient_id = patient_name(seed, film.patient)
    name = f"{patient_id}-{film.number}.png"
    row = {"path": f"images/{source}/{name}", "label": film.label, "source": source, "patient_id": patient_id}
    row |= {"view": "PA", "lung_mask": f"lungs/{name}"}
    Image.fromarray(image).save(root / row["path"])
    Image.fromarray(lungs).save(root / row["lung_mask"])
    if film.label != "NOR":
        row["lesion_mask"] = f"lesions/{name}"
        Image.fromarray(lesion).save(root / row["lesion_mask"])
    return row


def patient_name(seed: int, patient: int) -> str:
    """Return the id of a patient. Different seeds give different ids; seed 0 gives the ids of cvrnet 0.1."""
    return (f"s{seed}-" if seed else "") + f"p{patient:05d}"


def _mark(image: np.ndarray) -> None:
    """Draw the shortcut's marker into the image: a white frame with the letter R."""
    height, width = image.shape
    left, top, right, bottom = (round(f * s) for f, s in zip(MARKER_BOX, (width, height) * 2, strict=True))
    letter = np.pad([[c == "1" for c in row] for row in _LETTER], 1)
    letter = np.pad(letter, 1, constant_values=True)
    rows = np.arange(bottom - top) * letter.shape[0] // (bottom - top)
    columns = np.arange(right - left) * letter.shape[1] // (right - left)
    image[top:bottom, left:right][letter[rows][:, columns]] = 250
