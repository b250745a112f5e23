"""Shortcut probes: simple models that predict the label or the source from features that should not matter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from cvrnet.audit.findings import Estimate, Finding, flat_row
from cvrnet.audit.measurements import ImageFacts, Measurements
from cvrnet.data.splits import patient_keys
from cvrnet.metrics import bootstrap_intervals, classification_scores
from cvrnet.metrics.inputs import unchecked

MIN_PATIENTS = 10  # least number of patients of a class; smaller classes are left out
MAX_IMAGES = 3000  # a probe uses about this many images at most, of randomly drawn patients, to limit its cost
FOLDS = 5
PERMUTATIONS = 3
RESAMPLES = 500
TREES = 25

WHAT = {
    "size": "the image's size and aspect",
    "format": "the file format and bit depth",
    "compression": "the JPEG compression tables",
    "border": "the border",
    "corners": "the corners",
    "histogram": "the histogram",
    "thumbnail": "a 16x16 thumbnail",
    "pixels": "32x32 pixels",
}
"""The input of each probe. The first five contain no lung, and therefore no information about a disease."""

NO_DISEASE = ("size", "format", "compression", "border", "corners")
_TABULAR = ("size", "format", "compression")


@dataclass(frozen=True)
class Probe:
    """The cross-validated scores of one simple model; all images of a patient are in one fold."""

    probe: str  # a key of WHAT
    auc: Estimate  # AUC of each class against the other classes, averaged over the classes
    auc_permuted: float  # the mean AUC if the same model learns and predicts permuted labels
    balanced_accuracy: Estimate  # mean recall over the classes
    best_class: str  # the class with the highest AUC
    best_class_auc: Estimate
    classes: tuple[str, ...]
    images: int
    patients: int

    @property
    def excess(self) -> float:
        """How far the lower end of the AUC's interval lies above both chance and the AUC on permuted labels."""
        return self.auc.low - max(0.5, self.auc_permuted)

    def row(self, **scope: str) -> dict[str, Any]:
        """Return the probe as one row of a table; the keywords, such as ``target="label"``, are its first columns."""
        return flat_row(scope | vars(self))


class _Groups(NamedTuple):
    """The images that all probes of the same targets use, and the folds of their cross-validation.

    The targets are what the probes predict: for example, the label or the source of each image.
    """

    rows: np.ndarray  # indices of the images that are used
    patients: np.ndarray  # patient of each of these images
    classes: list[str]  # the different targets of these images
    y: np.ndarray  # index of each image's target in `classes`
    splits: list[Any]  # pairs of training and test images; empty if there are fewer than two classes


def probe_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return the rows about probes from the tables of all results: the rows that have the column ``target``."""
    return [row for finding in findings for row in finding.figures.get("table", ()) if "target" in row]


def probes(measured: Measurements, targets: Sequence[str], *, seed: int = 0) -> list[Probe]:
    """Return the result of `probe` for each kind of feature, or an empty list if `probe` would return None."""
    groups = _select(measured, np.asarray(targets), seed)
    return [_probe(measured, name, groups, seed) for name in WHAT] if len(groups.classes) > 1 else []


def probe(measured: Measurements, name: str, targets: Sequence[str], *, seed: int = 0) -> Probe | None:
    """Cross-validate a simple model that predicts each image's group from one kind of feature.

    `targets` has the group of each image, such as its label or source. Images with the target ``""`` are left out, and
    so are groups of fewer than `MIN_PATIENTS` patients. If there are more than `MAX_IMAGES` images, patients are drawn
    at random until their images reach this number. The result is None if fewer than two groups are left. ``name`` is
    the kind of feature, a key of `WHAT`; ``seed`` is the seed of all random choices.
    """
    groups = _select(measured, np.asarray(targets), seed)
    return _probe(measured, name, groups, seed) if len(groups.classes) > 1 else None


def _probe(measured: Measurements, name: str, groups: _Groups, seed: int) -> Probe:
    rows, patients, classes, y, splits = groups
    values = _features([measured.facts[row] for row in rows], name)
    rng = np.random.default_rng(seed)
    permuted = [_permute(y, patients, rng) for _ in range(PERMUTATIONS if values.shape[1] else 0)]
    p, *tables = _out_of_fold(name, values, [y, *permuted], len(classes), splits, seed)
    chance = [
        roc_auc_score(labels[:, None] == np.arange(len(classes)), table)  # mean over the classes
        for labels, table in zip(permuted, tables, strict=True)
    ]
    scores = classification_scores(y, p, classes)
    intervals = bootstrap_intervals(y, p, classes, patients.tolist(), n=RESAMPLES, seed=seed)
    best = max(classes, key=lambda c: scores["per_class"][c]["roc_auc"])
    return Probe(
        name,
        Estimate.of(scores["macro"]["roc_auc"], intervals["macro"]["roc_auc"]),
        float(np.mean(chance)) if chance else 0.5,
        Estimate.of(scores["balanced_accuracy"], intervals["balanced_accuracy"]),
        best,
        Estimate.of(scores["per_class"][best]["roc_auc"], intervals["per_class"][best]["roc_auc"]),
        tuple(classes),
        images=len(rows),
        patients=len(set(patients)),
    )


def _features(facts: Sequence[ImageFacts], name: str) -> np.ndarray:
    """Return the features of some images for a probe, float32 (n, d), without columns that are constant."""
    if name == "format":
        formats = np.array([f.format for f in facts])
        values = (formats[:, None] == np.unique(formats)).astype(np.float32)
    else:
        values = np.array([f.vectors[name] for f in facts])
    return values[:, np.ptp(values, axis=0) > 0].astype(np.float32)


def _select(measured: Measurements, targets: np.ndarray, seed: int) -> _Groups:
    patients = np.array(patient_keys(measured.records))
    rows = np.flatnonzero(targets != "")
    if len(rows) > MAX_IMAGES:
        order = np.random.default_rng(seed).permutation(np.unique(patients[rows]))
        place = {patient: number for number, patient in enumerate(order)}
        rank = np.array([place[patient] for patient in patients[rows]])
        rows = rows[rank <= np.sort(rank)[MAX_IMAGES - 1]]
    enough = [c for c in np.unique(targets[rows]) if len(set(patients[rows][targets[rows] == c])) >= MIN_PATIENTS]
    rows = rows[np.isin(targets[rows], enough)]
    patients, y = patients[rows], np.searchsorted(enough, targets[rows])
    folds = StratifiedGroupKFold(min(FOLDS, MIN_PATIENTS), shuffle=True, random_state=seed)
    splits = list(folds.split(y, y, patients)) if len(enough) > 1 else []
    return _Groups(rows, patients, [str(c) for c in enough], y, splits)


def _out_of_fold(
    name: str, values: np.ndarray, targets: Sequence[np.ndarray], n_classes: int, splits: list[Any], seed: int
) -> list[np.ndarray]:
    """Return probabilities (n, C) for each of several targets (n,).

    The probabilities of an image come from a model that was not trained on the image's patient.
    """
    tables = [np.full((len(values), n_classes), 1 / n_classes) for _ in targets]
    if not values.shape[1]:  # no feature differs between images, so every class is equally likely
        return tables
    with unchecked():
        for train, test in splits:
            known, new = values[train], values[test]
            if name not in _TABULAR:
                scaler = StandardScaler().fit(known)
                known, new = scaler.transform(known), scaler.transform(new)
            for y, table in zip(targets, tables, strict=True):
                seen = np.unique(y[train])
                if len(seen) < 2:
                    continue
                predict = _forest if name in _TABULAR else _ridge
                table[test] = 0
                table[np.ix_(test, seen)] = predict(known, y[train], new, seed)
    return tables


# The forest's leaf size and ridge regression's penalty grow with the number of training images, against overfitting.


def _forest(known: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Train a random forest; return the probabilities of the classes in ``y`` for new images."""
    leaf, balance = max(3, len(y) // 200), "balanced_subsample"
    forest = RandomForestClassifier(TREES, min_samples_leaf=leaf, class_weight=balance, random_state=seed)
    return forest.fit(known, y).predict_proba(new)


def _ridge(known: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Train ridge regression, a linear model; return the probabilities of the classes in ``y`` for new images."""
    margin = RidgeClassifier(alpha=len(y) / 2, class_weight="balanced").fit(known, y).decision_function(new)
    return softmax(np.stack([-margin, margin], axis=1) if margin.ndim == 1 else margin, axis=1)


def _permute(y: np.ndarray, patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the labels, shuffled by whole patients: images of one patient mostly keep equal labels."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, patient in enumerate(patients):
        members[patient].append(index)
    groups = list(members.values())
    shuffled = [rng.permutation(groups[number]) for number in rng.permutation(len(groups))]
    permuted = np.empty_like(y)
    permuted[np.concatenate(groups)] = y[np.concatenate(shuffled)]
    return permuted
