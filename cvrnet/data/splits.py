"""Split data without leaks: keep each patient's images together, and hold back images for an independent test.

**One patient.** The same ``patient_id`` means the same person in all sources (hospitals, collections) of a data set,
because a hospital's films may be in several collections. If two persons have the same id, the images of both stay in
one set, which causes no leak. To separate them, make the ids different: for instance, write the source before the id.
An image without an id counts as a separate patient. No two sets share a patient.

**Held back.** If one of the sources is chosen as the test source, its images are held back. Otherwise, the images whose
``split`` is ``test`` are held back. No model is trained or validated on images that are held back. These images are
scored as the set ``independent``.

`make_folds` and `holdout_split` need scikit-learn (``pip install cvrnet[train]``), unless ``findings`` are given.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from cvrnet.data.cells import split_name
from cvrnet.data.finding_labels import split_findings
from cvrnet.data.record import Record
from cvrnet.data.stratify import iterative_folds
from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.text import printable

Sets = dict[str, list[Record]]
Key = TypeVar("Key")
INDEPENDENT = "independent"
"""Name of the set of images that are held back: no model is trained or validated on them. In split.csv, it is also the
``fold`` of these images."""


def patient_key(patient_id: str, image: str | int) -> str:
    """Return a text that identifies the patient of an image.

    Without a ``patient_id``, the image (its name or index) stands for the patient.

    >>> patient_key("7", "a.png"), patient_key("", "a.png")
    ('id 7', 'image a.png')
    """
    return f"id {patient_id}" if patient_id else f"image {image}"


def patient_keys(records: Sequence[Record]) -> list[str]:
    """Return the `patient_key` of each image."""
    return [patient_key(record.patient_id, i) for i, record in enumerate(records)]


def hold_back(records: Sequence[Record], test_source: str = "") -> tuple[list[Record], list[Record]]:
    """Return the images for training and validation, and the independent test images.

    With a test source, images of other sources whose ``split`` is ``test`` are in neither set: they must not be used
    for training, and the independent set contains only the test source.

    Raises:
        UserError: No image is from the test source, nothing is left to train on, or a patient is in both sets.
    """
    sources = sorted({r.source for r in records} - {""})
    if test_source and test_source not in sources:
        raise UserError(f"unknown test source {test_source!r}; the data set has {', '.join(sources) or 'no sources'}")
    independent = [r for r in records if (r.source == test_source if test_source else r.split == "test")]
    inside = [r for r in records if r.split != "test" and not (test_source and r.source == test_source)]
    if not inside:
        raise UserError("no image is left to train on; every image has the split test or is from the test source")
    refuse_shared_patients({"the training images": inside, "the independent images": independent})
    return inside, independent


def unused_split(records: Sequence[Record]) -> str:
    """Return a warning if no image has a ``split``, but another column names training and test images; "" otherwise.

    >>> unused_split([Record("a.png", "CVP", metadata={"subset": word}) for word in ("Train", "test")])
    "column 'subset' names training and test images, but it is not used; to use it, give --columns split=subset"
    """
    if any(record.split for record in records):
        return ""
    for column in dict.fromkeys(name for record in records for name in record.metadata):
        cells = {record.metadata.get(column, "") for record in records}
        if all(split_name(cell) is not None for cell in cells) and {"train", "test"} <= set(map(split_name, cells)):
            how = f"to use it, give --columns split={shlex.quote(printable(column))}"
            return f"column {column!r} names training and test images, but it is not used; {how}"
    return ""


def holdout_sets(
    records: Sequence[Record],
    fraction: float = 0.2,
    seed: int = 0,
    test_source: str = "",
    findings: Sequence[str] = (),
) -> Sets:
    """Return the sets for training one model: ``train``, ``val`` and, if images are held back, ``independent``.

    Images whose ``split`` is ``val`` are for validation; if no image has this value, `holdout_split` chooses patients
    for validation.

    Raises:
        UserError: No image is from the test source, no image is left to train on, or two sets share a patient.
    """
    inside, independent = hold_back(records, test_source)
    held_out = [r.split == "val" for r in inside]
    if all(held_out):
        raise UserError("no image is left to train on; expected some outside the validation and test sets")
    if not any(held_out):
        held_out = holdout_split(inside, fraction, seed, findings)
    val = [r for r, out in zip(inside, held_out, strict=True) if out]
    train = [r for r, out in zip(inside, held_out, strict=True) if not out]
    sets = {"train": train, "val": val} | ({INDEPENDENT: independent} if independent else {})
    refuse_shared_patients(sets)
    return sets


def fold_sets(records: Sequence[Record], folds: Sequence[int], fold: int) -> Sets:
    """Return the sets of images for one fold: this fold is ``test``, the next is ``val``, and the others are ``train``.

    After the last fold comes fold 1, as in the first paper (Fig. 3).
    """
    validates = fold % max(folds) + 1
    sets: Sets = {"train": [], "val": [], "test": []}
    for record, number in zip(records, folds, strict=True):
        sets["test" if number == fold else "val" if number == validates else "train"].append(record)
    return sets


def refuse_shared_patients(sets: Mapping[str, Sequence[Record]]) -> None:
    """Raise UserError if two of the sets have a patient in common."""
    seen: dict[str, str] = {}
    for name, records in sets.items():
        for i, r in enumerate(records):
            other = seen.setdefault(patient_key(r.patient_id, f"{name} {i}"), name)
            if other != name:
                raise UserError(f"patient {r.patient_id!r} is in {other} and in {name} ({r.where or r.name})")


def refuse_missing_classes(records: Sequence[Record], classes: Sequence[str]) -> None:
    """Raise UserError if a class has no image to train on."""
    if missing := [name for name in classes if name not in {r.label for r in records}]:
        raise UserError(f"no training image of class {', '.join(missing)}; every class needs at least one")


def make_folds(records: Sequence[Record], n_folds: int = 5, seed: int = 0, findings: Sequence[str] = ()) -> list[int]:
    """Return the fold, 1 to `n_folds`, of each image, for a cross-validation by patient (first paper, Fig. 3).

    All images of a patient are in one fold; an image without a patient id counts as a separate patient. Labels and
    sources spread over the folds as evenly as patients allow (`sklearn.model_selection.StratifiedGroupKFold`). If
    ``findings`` are given, a label may name several of them. Then each single finding and each source is spread over
    the folds about evenly (`cvrnet.data.stratify`).

    Raises:
        UserError: if there are fewer than two folds, or a class or finding has fewer patients than folds.
    """
    if n_folds < 2:
        raise UserError(f"n_folds={n_folds}; expected at least 2")
    patients = patient_keys(records)
    for label, members in sorted(_label_members(records, patients, findings).items()):
        if len(members) < n_folds:
            kind = "finding" if findings else "class"
            raise UserError(
                f"{kind} {label} has {count(len(members), 'patient')}; {n_folds} folds need at least {n_folds}"
            )
    if len(set(patients)) < n_folds:
        raise UserError(f"{n_folds} folds need at least {n_folds} patients, found {len(set(patients))}")
    return _even_folds(records, patients, n_folds, seed, findings)


def holdout_split(
    records: Sequence[Record], fraction: float = 0.2, seed: int = 0, findings: Sequence[str] = ()
) -> list[bool]:
    """Hold out about `fraction` of the images; return for each image whether it is held out.

    All images of a patient are held out, or none. Labels and sources spread as in `make_folds`. If at least two
    patients have a class, the class is among the held-out images and among the others, if possible. A class that only
    one patient has is not held out.

    Raises:
        UserError: if the fraction is not between 0 and 1, or there are fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise UserError(f"fraction {fraction} is not possible: expected a number between 0 and 1")
    patients = patient_keys(records)
    n_patients = len(set(patients))
    if n_patients < 2:
        raise UserError(f"a split needs at least 2 patients, found {n_patients}")
    n_folds, n_held = _nearest_ratio(fraction, min(n_patients, 100))
    folds = _even_folds(records, patients, n_folds, seed, findings)
    held = {patient for patient, fold in zip(patients, folds, strict=True) if fold <= n_held}
    _mend(held, _label_members(records, patients, findings))
    return [patient in held for patient in patients]


def _nearest_ratio(fraction: float, limit: int) -> tuple[int, int]:
    """Return (n, k), where k of n folds are to be held out; n is at most `limit`.

    n is the smallest number for which k / n is within 0.01 of `fraction`; if there is none, k / n is the closest.

    >>> _nearest_ratio(0.2, 100), _nearest_ratio(0.3, 100), _nearest_ratio(0.2, 3)
    ((5, 1), (10, 3), (3, 1))
    """
    ratios = [(n, min(max(round(fraction * n), 1), n - 1)) for n in range(2, limit + 1)]
    near = [(n, k) for n, k in ratios if abs(k / n - fraction) < 0.01]
    return near[0] if near else min(ratios, key=lambda ratio: abs(ratio[1] / ratio[0] - fraction))


def _members(keys: Sequence[Key], patients: Sequence[str]) -> dict[Key, set[str]]:
    """Return key -> the patients of its images."""
    members: dict[Key, set[str]] = defaultdict(set)
    for key, patient in zip(keys, patients, strict=True):
        members[key].add(patient)
    return members


def _label_members(records: Sequence[Record], patients: Sequence[str], findings: Sequence[str]) -> dict[str, set[str]]:
    """Return a dictionary: class (or finding) -> the patients who have it."""
    labels = [split_findings(r.label) if findings else [r.label] for r in records]
    pairs = [(label, patient) for names, patient in zip(labels, patients, strict=True) for label in names]
    members = _members([label for label, _ in pairs], [patient for _, patient in pairs])
    return {name: members[name] for name in findings} if findings else members


def _even_folds(
    records: Sequence[Record], patients: Sequence[str], n_folds: int, seed: int, findings: Sequence[str]
) -> list[int]:
    if not findings:
        return _stratified_folds(records, patients, n_folds, seed)
    kinds = [*findings, *sorted({record.source for record in records})]
    _, number = np.unique(patients, return_inverse=True)
    counts = np.zeros((number.max() + 1, len(kinds) + 1))
    for patient, record in zip(number, records, strict=True):
        own = {*split_findings(record.label), record.source}
        counts[patient] += [*(kind in own for kind in kinds), 1]
    return [int(fold) for fold in iterative_folds(counts, n_folds, seed)[number]]


def _stratified_folds(records: Sequence[Record], patients: Sequence[str], n_folds: int, seed: int) -> list[int]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise UserError("splitting needs scikit-learn: pip install cvrnet[train]") from error
    strata = _strata(records, patients, n_folds)
    # Number the patients at random instead of using shuffle=True, which is broken before scikit-learn 1.8.
    _, group = np.unique(patients, return_inverse=True)
    order = np.arange(group.max() + 1)
    np.random.RandomState(seed).shuffle(order)
    group = np.argsort(order)[group]
    folds = np.zeros(len(records), int)
    for fold, (_, members) in enumerate(StratifiedGroupKFold(n_folds).split(strata, strata, group), start=1):
        folds[members] = fold
    return folds.tolist()


def _strata(records: Sequence[Record], patients: Sequence[str], least: int) -> list[int]:
    """Return the index of each image's stratum. A stratum has the images of one label and one source.

    A stratum of fewer than `least` patients is merged with the next smallest stratum of the same label. If this is not
    enough, it is merged with the next smallest stratum of any label.
    """
    keys = [(record.label, record.source) for record in records]
    strata = {key: [key] for key in sorted(set(keys))}
    members = _members(keys, patients)

    def size(key: tuple[str, str]) -> tuple[int, tuple[str, str]]:
        return len(members[key]), key

    def join(group: list[tuple[str, str]]) -> None:
        group.sort(key=size)
        while len(group) > 1 and len(members[group[0]]) < least:
            rarest = group.pop(0)
            members[group[0]] |= members[rarest]
            strata[group[0]] += strata.pop(rarest)
            group.sort(key=size)

    for label in sorted({label for label, _ in keys}):
        join([key for key in strata if key[0] == label])
    join(list(strata))
    numbers = {key: number for number, joined in enumerate(strata.values()) for key in joined}
    return [numbers[key] for key in keys]


def _mend(held: set[str], members: Mapping[str, set[str]]) -> None:
    """Change which patients are held out until each class is on both sides; a class of one patient is not held out.

    The sides are the held-out patients and the others. Afterwards, a class can be missing on one side only if some of
    its patients also have another class.
    """

    def harm(patient: str) -> int:
        """Return how many classes would lose their last patient on one side if this patient moved to the other side."""
        sides = (of_class & held if patient in held else of_class - held for of_class in members.values())
        return sum(side == {patient} for side in sides)

    for _, of_class in sorted(members.items(), key=lambda item: (len(item[1]), item[0])):
        if of_class <= held or (len(of_class) > 1 and not of_class & held):
            held ^= {min(of_class, key=lambda patient: (harm(patient), patient))}  # move the patient
