"""How well simple models tell label or source from what should not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cvrnet.audit.measurements import Measurements
from cvrnet.metrics import bootstrap_intervals, classification_scores

MIN_PATIENTS = 10  # of a class, to be told at all
MAX_IMAGES = 3000  # a probe sees so many, drawn by patient: its cost does not grow with the data set
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
"""What each probe looks at. The first five hold no lung, so nothing about a disease."""

NO_DISEASE = ("size", "format", "compression", "border", "corners")
_TABULAR = ("size", "format", "compression")


@dataclass(frozen=True)
class Probe:
    """What one simple model told, in cross-validation that keeps patients apart.

    Attributes:
        name: a key of `WHAT`.
        auc: one class against the others, mean over the classes.
        interval: of the AUC, 95 %, by resampling patients.
        permuted: mean AUC of the same model on permuted labels.
        balanced_accuracy: mean recall over the classes.
        balanced_interval: its 95 % interval.
        best: the class that is told best from the others.
        best_auc: its AUC.
        best_interval: its 95 % interval.
        classes: that were told apart.
        images: that were used.
        patients: theirs.
    """

    name: str
    auc: float
    interval: tuple[float, float]
    permuted: float
    balanced_accuracy: float
    balanced_interval: tuple[float, float]
    best: str
    best_auc: float
    best_interval: tuple[float, float]
    classes: tuple[str, ...]
    images: int
    patients: int

    @property
    def constant(self) -> bool:
        """Whether what the probe sees is the same for all images."""
        return self.interval == (0.5, 0.5)

    @property
    def excess(self) -> float:
        """How far the interval's lower end lies above chance and above the permuted labels."""
        return self.interval[0] - max(0.5, self.permuted)

    def row(self, **scope: str) -> dict[str, Any]:
        """As one row of a table."""
        return {
            **scope,
            "probe": self.name,
            "auc": self.auc,
            "auc_low": self.interval[0],
            "auc_high": self.interval[1],
            "auc_permuted": self.permuted,
            "balanced_accuracy": self.balanced_accuracy,
            "balanced_accuracy_low": self.balanced_interval[0],
            "balanced_accuracy_high": self.balanced_interval[1],
            "best_class": self.best,
            "best_class_auc": self.best_auc,
            "best_class_auc_low": self.best_interval[0],
            "best_class_auc_high": self.best_interval[1],
            "classes": "|".join(self.classes),
            "images": self.images,
            "patients": self.patients,
        }


def features(measured: Measurements, name: str, rows: np.ndarray) -> np.ndarray:
    """The numbers that a probe sees of some images, float32 (n, d), without columns that are the same for all."""
    if name == "size":
        height, width = measured.size[rows].T.astype(np.float64)
        values = np.stack([height, width, width / height, abs(np.log(width / height)), height * width], axis=1)
    elif name == "format":
        kinds = np.array(measured.formats)
        values = (kinds[rows, None] == np.unique(kinds)).astype(np.float32)
    elif name == "compression":
        values = measured.container[rows]
    else:
        values = measured.small[name][rows]
    return values[:, np.ptp(values, axis=0) > 0].astype(np.float32)


def probe(
    measured: Measurements, name: str, targets: Sequence[str], rows: np.ndarray | None = None, *, seed: int = 0
) -> Probe | None:
    """Tell `targets` (one for each measured image) from one kind of feature.

    Args:
        measured: The images.
        name: A key of `WHAT`.
        targets: Labels, sources or other groups; ``""`` is left out, and so are groups of fewer than ten patients.
        rows: Indices of the images to use, by default all.
        seed: Of folds, permutations and resamples.

    Returns:
        None if fewer than two groups are left.
    """
    selected = _select(measured, np.asarray(targets), np.arange(len(targets)) if rows is None else rows, seed)
    if selected is None:
        return None
    rows, groups, classes, y = selected
    values = features(measured, name, rows)
    folds = StratifiedGroupKFold(min(FOLDS, MIN_PATIENTS), shuffle=True, random_state=seed)
    splits = list(folds.split(y, y, groups))
    p = _out_of_fold(name, values, y, len(classes), splits, seed)
    scores = classification_scores(y, p, classes)
    intervals = bootstrap_intervals(y, p, classes, groups.tolist(), n=RESAMPLES, seed=seed)
    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(PERMUTATIONS if values.shape[1] else 0):
        other = _permute(y, groups, rng)
        table = _out_of_fold(name, values, other, len(classes), splits, seed)
        chance.append(classification_scores(other, table, classes)["macro"]["roc_auc"])
    best = max(classes, key=lambda c: scores["per_class"][c]["roc_auc"])

    def interval(value: float, bounds: list[float] | None) -> tuple[float, float]:
        return (bounds[0], bounds[1]) if bounds else (value, value)

    auc, best_auc = scores["macro"]["roc_auc"], scores["per_class"][best]["roc_auc"]
    return Probe(
        name=name,
        auc=auc,
        interval=interval(auc, intervals["macro"]["roc_auc"]),
        permuted=float(np.mean(chance)) if chance else 0.5,
        balanced_accuracy=scores["balanced_accuracy"],
        balanced_interval=interval(scores["balanced_accuracy"], intervals["balanced_accuracy"]),
        best=best,
        best_auc=best_auc,
        best_interval=interval(best_auc, intervals["per_class"][best]["roc_auc"]),
        classes=tuple(classes),
        images=len(rows),
        patients=len(set(groups)),
    )


def _select(
    measured: Measurements, targets: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray] | None:
    """The images a probe uses, their patients, the classes, and the index of each image's class."""
    patients = np.array([r.patient_id or f"\t{i}" for i, r in enumerate(measured.records)])
    rows = rows[targets[rows] != ""]
    if len(rows) > MAX_IMAGES:
        order = np.random.default_rng(seed).permutation(np.unique(patients[rows]))
        place = {patient: number for number, patient in enumerate(order)}
        rank = np.array([place[patient] for patient in patients[rows]])
        rows = rows[rank <= np.sort(rank)[MAX_IMAGES - 1]]
    enough = [c for c in np.unique(targets[rows]) if len(set(patients[rows][targets[rows] == c])) >= MIN_PATIENTS]
    rows = rows[np.isin(targets[rows], enough)]
    if len(enough) < 2:
        return None
    return rows, patients[rows], [str(c) for c in enough], np.searchsorted(enough, targets[rows])


def _model(name: str, n: int, seed: int) -> Any:
    if name in _TABULAR:
        return RandomForestClassifier(
            TREES, min_samples_leaf=max(3, n // 200), class_weight="balanced_subsample", random_state=seed
        )
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=n / 2, class_weight="balanced"))


def _out_of_fold(
    name: str, values: np.ndarray, y: np.ndarray, n_classes: int, splits: list[Any], seed: int
) -> np.ndarray:
    """Scores of each class as probabilities (n, C), each image by the model that did not see its patient."""
    table = np.full((len(y), n_classes), 1 / n_classes)
    if not values.shape[1]:  # the same for all images: nothing to tell
        return table
    for train, test in splits:
        seen = np.unique(y[train])
        if len(seen) < 2:
            continue
        model = _model(name, len(train), seed).fit(values[train], y[train])
        if name in _TABULAR:
            scores = model.predict_proba(values[test])
        else:
            margin = model.decision_function(values[test])
            margin = np.stack([-margin, margin], axis=1) if margin.ndim == 1 else margin
            scores = softmax(margin, axis=1)
        table[test] = 0
        table[np.ix_(test, seen)] = scores
    return table


def _permute(y: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels in another order that keeps most of a patient's together, as a patient's images are alike."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    patients = list(members.values())
    shuffled = [index for number in rng.permutation(len(patients)) for index in rng.permutation(patients[number])]
    permuted = np.empty_like(y)
    permuted[[index for patient in patients for index in patient]] = y[shuffled]
    return permuted
