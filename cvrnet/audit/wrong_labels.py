"""Find labels that are probably wrong, by confident learning.

Its inputs are probabilities, predicted from an image's features and from the labels of the patient's other images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC

from cvrnet.audit.findings import Finding
from cvrnet.audit.measurements import Measurements
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count

with warnings.catch_warnings():  # cleanlab, when it is imported, silences all warnings of the program
    from cleanlab.filter import find_label_issues

CODE = "wrong-labels"
MIN_PATIENTS = 30  # least number of patients of a class within a source; smaller classes are not checked
MAX_CONFIDENCE = 0.03  # only a label with a lower probability counts as probably wrong
MIN_SHARE = 0.015  # least share of doubtful labels for a warning; with fewer, only a note, because a model also errs
MIN_AUC = 0.8  # below this AUC, many labels that are named would be correct; 10 % wrong labels lower the AUC by 0.08
FOLDS = 5
MAX_IMAGES = 3000  # maximum number of training images per fold, so that the cost grows only linearly with the data set
SHARPNESS = 2.0  # factor of the support vector machine's margins before the softmax
CAUTION = 10.0  # pseudo-count: this many images, with labels at their overall rates, are added to each class's counts

ADVICE = "Look at each image, the most doubtful first, before you delete it or correct its label; keep correct labels."


def wrong_label_findings(measured: Measurements, features: np.ndarray | str, seed: int = 0) -> list[Finding]:
    """Find the images whose label is probably wrong, or say why labels were not checked.

    ``features`` is the result of `image_features`, (n, 2, d). Each source is checked by itself: a model trained on
    several sources would predict the label from the source, and doubt every label that is rare in its source.
    """
    if isinstance(features, str):
        return [Finding(CODE, "note", f"Labels were not checked: {features}.")]
    rows: list[dict[str, Any]] = []
    checked, skill = 0, []
    for source, images, classes, y, p, auc in judged_sources(measured, features, seed):
        skill.append(f"{source or '(no source)'} {auc:.2f}")
        if auc < MIN_AUC:
            continue
        checked += len(images)
        for i in doubtful(y, p):
            record = measured.records[images[i]]
            row = {"path": record.name, "source": source, "label": record.label, "probability": float(p[i, y[i]])}
            rows.append(row | {"probable_label": classes[p[i].argmax()], "its_probability": float(p[i].max())})
    if not checked:
        reason = f"too few patients (needed: {MIN_PATIENTS} in each of two classes of a source)"
        if skill:
            reason = f"the features hardly predict them (AUC within a source: {', '.join(skill)}; needed: {MIN_AUC})"
        return [Finding(CODE, "note", f"Labels were not checked: {reason}.")]
    left = len(measured.records) - checked
    known = f"{count(checked, 'image')} checked within their source"
    known += f", {left:,} not: too few patients, or an AUC below {MIN_AUC}" if left else ""
    known += f"; AUC of predicting the labels: {', '.join(skill)}"
    return [_finding(sorted(rows, key=lambda row: (row["probability"], row["path"])), checked, known)]


def _finding(rows: list[dict[str, Any]], checked: int, known: str) -> Finding:
    """Report the doubtful labels, the most doubtful first; ``known`` says what was checked."""
    figures: dict[str, Any] = {"checked": checked, "doubtful": len(rows)}
    if rows:
        figures["table"] = rows
    if len(rows) < max(2, MIN_SHARE * checked):
        but = f": {count(len(rows), 'is', 'are')} doubtful, which errors of this check can explain" if rows else ""
        return Finding(CODE, "note", f"No labels stand out as wrong{but} ({known}).", figures)
    sentence = f"{len(rows):,} images probably have a wrong label ({known})."
    return Finding(CODE, "warning", sentence, figures, tuple(row["path"] for row in rows), ADVICE)


def doubtful(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the indices of labels that confident learning calls errors by both of its rules, and that are improbable.

    ``y`` are labels (n,), ``p`` their out-of-fold probabilities (n, C). See Northcutt, Jiang and Chuang, "Confident
    learning: estimating uncertainty in dataset labels", JAIR 70, 2021, sections 3 and 4 ("both").
    """
    found = find_label_issues(y, p, filter_by="both", n_jobs=1)
    return np.flatnonzero(found & (p[np.arange(len(y)), y] < MAX_CONFIDENCE))


def out_of_fold(features: np.ndarray, y: np.ndarray, patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return each image's probabilities of the C labels, (n, C), from models that were not trained on its patient.

    The probabilities are the softmax of a support vector machine's margins. All classes have equal weight, so no label
    is improbable just because it is rare.
    """
    p = np.zeros((len(y), int(y.max()) + 1))
    rng = np.random.default_rng(seed)
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, y, patients):
        train = rng.permutation(train)[:MAX_IMAGES]
        machine = SVC(class_weight="balanced").fit(features[train], y[train])
        margin = machine.decision_function(features[test])
        margin = np.stack([-margin, margin], axis=1) if margin.ndim == 1 else margin
        p[test] = softmax(SHARPNESS * margin, axis=1)
    return p


def with_other_images(p: np.ndarray, y: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return each image's probabilities of the C labels, (n, C), from ``p`` and the patient's other labels.

    Bayes' rule: ``p`` (n, C), from the image alone, is multiplied by the likelihood of the other images' labels, given
    the image's label. The likelihood is counted over all n images, so the other labels have little effect if the
    labels of a patient often change. Several other images together count as one (geometric mean), because they are not
    independent.

    ``y`` (n,) are the indices of the labels, and contain each of the C classes; ``patients`` (n,) are the patients.
    """
    one = np.eye(p.shape[1])[y]
    _, patient = np.unique(patients, return_inverse=True)
    others = np.zeros((patient.max() + 1, p.shape[1]))
    np.add.at(others, patient, one)
    others = others[patient] - one
    others /= np.maximum(others.sum(1, keepdims=True), 1)  # shares of the other labels; 0 if there is no other image
    # likelihood[c, d]: how likely another image has label d, if this image has label c
    likelihood = one.T @ others + CAUTION * one.mean(0)
    likelihood /= likelihood.sum(1, keepdims=True)
    return np.asarray(softmax(np.log(p) + others @ np.log(likelihood).T, axis=1))


class JudgedSource(NamedTuple):
    """The images of one source whose labels can be checked, and each image's probability of every class."""

    source: str
    images: np.ndarray  #: the indices of these images among all images, (n,)
    classes: list[str]  #: C names
    y: np.ndarray  #: the index of each image's class, (n,)
    p: np.ndarray  #: probabilities of the classes, from the image and the patient's other labels, (n, C)
    auc: float  #: AUC of predicting the labels with the probabilities


def judged_sources(measured: Measurements, features: np.ndarray, seed: int = 0) -> Iterator[JudgedSource]:
    """Predict the labels of each source that has two or more classes of enough patients; ``features`` are (n, 2, d).

    A class has enough patients if at least `MIN_PATIENTS` have it in this source; other classes are left out.
    """
    labels = np.array([r.label for r in measured.records])
    sources = np.array([r.source for r in measured.records])
    patients = np.array(patient_keys(measured.records))
    features = features.reshape(len(features), -1)
    for source in np.unique(sources):
        here = sources == source
        enough = [c for c in np.unique(labels[here]) if len(set(patients[here & (labels == c)])) >= MIN_PATIENTS]
        if len(enough) < 2:
            continue
        index = np.flatnonzero(here & np.isin(labels, enough))
        y = np.searchsorted(enough, labels[index])
        p = with_other_images(out_of_fold(features[index], y, patients[index], seed), y, patients[index])
        auc = roc_auc_score(y, p if len(enough) > 2 else p[:, 1], multi_class="ovr", average="weighted")
        yield JudgedSource(str(source), index, [str(c) for c in enough], y, p, float(auc))
