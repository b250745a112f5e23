"""Splits that never share a patient, stratified by label and source, the same for the same seed.

Needs scikit-learn, which comes with ``pip install cvrnet[train]``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from cvrnet.data.record import Record
from cvrnet.errors import UserError

Patients = dict[Hashable, set[str]]


def make_folds(records: Sequence[Record], n_folds: int = 5, seed: int = 0) -> list[int]:
    """The fold, 1 to `n_folds`, of each image: v1's cross-validation (v1 Fig. 3) without its leak.

    All images of a patient are in one fold; an image without a patient id is its own patient. Labels and sources
    spread over the folds as evenly as patients allow (`sklearn.model_selection.StratifiedGroupKFold`).

    Raises:
        UserError: if there are fewer than two folds, or a class has fewer patients than folds.
    """
    if n_folds < 2:
        raise UserError(f"{n_folds} folds are not possible: expected at least 2")
    patients = _patients(records)
    for label, members in sorted(_members([record.label for record in records], patients).items(), key=str):
        if len(members) < n_folds:
            raise UserError(f"class {label} has {len(members)} patients, {n_folds} folds need at least {n_folds}")
    if len(set(patients)) < n_folds:
        raise UserError(f"{n_folds} folds need at least {n_folds} patients, found {len(set(patients))}")
    return _stratified_folds(records, patients, n_folds, seed)


def holdout_split(records: Sequence[Record], fraction: float = 0.2, seed: int = 0) -> list[bool]:
    """For each image whether it is held out: about `fraction` of them, with the guarantees of `make_folds`.

    A class of two patients or more is on both sides, a class of one patient is not held out.

    Raises:
        UserError: if the fraction is not between 0 and 1, or there are fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise UserError(f"fraction {fraction} is not possible: expected a number between 0 and 1")
    patients = _patients(records)
    n_patients = len(set(patients))
    if n_patients < 2:
        raise UserError(f"a split needs at least 2 patients, found {n_patients}")
    n_folds, n_held = _nearest_ratio(fraction, min(n_patients, 100))
    folds = _stratified_folds(records, patients, n_folds, seed)
    held = {patient for patient, fold in zip(patients, folds, strict=True) if fold <= n_held}
    _mend(held, _members([record.label for record in records], patients))
    return [patient in held for patient in patients]


def _nearest_ratio(fraction: float, limit: int) -> tuple[int, int]:
    """The smallest n, and k, such that k of n folds are the fraction to one percent, or as near as may be.

    >>> _nearest_ratio(0.2, 100), _nearest_ratio(0.3, 100), _nearest_ratio(0.2, 3)
    ((5, 1), (10, 3), (3, 1))
    """
    ratios = [(n, min(max(round(fraction * n), 1), n - 1)) for n in range(2, limit + 1)]
    near = [(n, k) for n, k in ratios if abs(k / n - fraction) < 0.01]
    return near[0] if near else min(ratios, key=lambda ratio: abs(ratio[1] / ratio[0] - fraction))


def _patients(records: Sequence[Record]) -> list[str]:
    """A key of each image's patient; an image without patient id is alone."""
    return [f"id {record.patient_id}" if record.patient_id else f"row {i}" for i, record in enumerate(records)]


def _members(keys: Sequence[Hashable], patients: Sequence[str]) -> Patients:
    members: Patients = defaultdict(set)
    for key, patient in zip(keys, patients, strict=True):
        members[key].add(patient)
    return members


def _stratified_folds(records: Sequence[Record], patients: Sequence[str], n_folds: int, seed: int) -> list[int]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise UserError("splitting needs scikit-learn: pip install cvrnet[train]") from error
    strata = _strata(records, patients, n_folds)
    # Numbering the patients at random is the same as shuffle=True, which is broken before scikit-learn 1.8.
    _, group = np.unique(patients, return_inverse=True)
    order = np.arange(group.max() + 1)
    np.random.RandomState(seed).shuffle(order)
    group = np.argsort(order)[group]
    splitter = StratifiedGroupKFold(n_folds)
    folds = [0] * len(records)
    for fold, (_, members) in enumerate(splitter.split(strata, strata, group), start=1):
        for index in members:
            folds[index] = fold
    return folds


def _strata(records: Sequence[Record], patients: Sequence[str], least: int) -> list[int]:
    """The stratum of each image: its label and source, where that has at least `least` patients.

    Rarer strata are joined, first with the next smallest of the same label, then, if that is not enough, with the
    next smallest of all.
    """
    keys = [(record.label, record.source) for record in records]
    strata = {key: [key] for key in sorted(set(keys))}
    members = dict(_members(keys, patients))

    def join(group: list[tuple[str, str]]) -> list[tuple[str, str]]:
        while len(group) > 1 and len(members[(rarest := min(group, key=lambda key: (len(members[key]), key)))]) < least:
            group.remove(rarest)
            into = min(group, key=lambda key: (len(members[key]), key))
            members[into] = members[into] | members.pop(rarest)
            strata[into] += strata.pop(rarest)
        return group

    for label in sorted({label for label, _ in keys}):
        join([key for key in strata if key[0] == label])
    join(list(strata))
    numbers = {key: number for number, joined in enumerate(strata.values()) for key in joined}
    return [numbers[key] for key in keys]


def _mend(held: set[str], members: Patients) -> None:
    """Moves single patients, in place, until each class is on both sides (a class of one patient: not held out).

    Only classes that are tied to one another by patients of several labels can still be on one side.
    """

    def harm(patient: str) -> int:
        """How many classes have nobody but this patient on the patient's side."""
        sides = (of_class & held if patient in held else of_class - held for of_class in members.values())
        return sum(side == {patient} for side in sides)

    for _, of_class in sorted(members.items(), key=lambda item: (len(item[1]), str(item[0]))):
        if of_class <= held:
            held.discard(min(of_class, key=lambda patient: (harm(patient), patient)))
        elif len(of_class) > 1 and not of_class & held:
            held.add(min(of_class, key=lambda patient: (harm(patient), patient)))
