"""Compute the scores of one set of predictions, and their mean over folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.calibration import brier_score, expected_calibration_error
from cvrnet.metrics.inputs import check, unchecked


def classification_scores(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Return all scores of one set of predictions, ready for JSON.

    See section 2.4 "Evaluation" and Table 3 of the first paper (arXiv 2007.11993).

    The keys are ``classes``, ``n``, ``accuracy``, ``balanced_accuracy``, ``log_loss``, ``brier_score``,
    ``expected_calibration_error``, ``weighted`` (recall, precision, f1), ``macro`` (recall, precision, f1, roc_auc,
    average_precision), ``per_class`` (support, sensitivity, specificity, ppv, npv, f1, roc_auc, average_precision) and
    ``confusion_matrix`` (rows true, columns predicted).

    - sensitivity = recall = TP/(TP+FN); specificity = TN/(TN+FP); ppv = precision = TP/(TP+FP); npv = TN/(TN+FN);
      f1 = 2TP/(2TP+FP+FN), each class against the others.
    - ``macro`` is the mean over the classes that occur in `y_true`. ``weighted`` is the mean weighted by their support,
      as in the tables of the CVR-Net papers, so weighted recall is the accuracy. In ``macro`` and ``weighted``, the
      precision of a class that is never predicted counts as 0, as in scikit-learn; in ``per_class`` it is None.
    - AUC and average precision compare one class with the others; AUC needs at least one sample of the class and one of
      another class. With two classes, both have the same AUC, which is also the macro AUC.
    - log_loss is the mean of -ln p(true class), with p clipped at 2.2e-16.

    >>> s = classification_scores([0, 0, 1, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]], ["NOR", "CVP"])
    >>> s["accuracy"], s["weighted"]["recall"], s["macro"]["roc_auc"], s["confusion_matrix"]
    (0.75, 0.75, 1.0, [[1, 1], [0, 2]])
    >>> s["per_class"]["CVP"]["sensitivity"], s["per_class"]["CVP"]["specificity"]
    (1.0, 0.5)

    Raises:
        UserError: The shapes, labels or probabilities cannot be scored.
    """
    from sklearn import metrics as sk  # here, because predictions need no scikit-learn

    labels, table = check(y_true, probabilities, classes)
    matrix = confusion_matrix(labels, table)
    scores = json_tree(confusion_scores(matrix.diagonal(), matrix.sum(1), matrix.sum(0), classes))
    truth = labels[:, None] == np.arange(len(classes))
    support = truth.sum(0)
    areas = _one_against_others(sk.roc_auc_score, truth, table, (support > 0) & (support < len(labels)))
    precisions = _one_against_others(sk.average_precision_score, truth, table, support > 0)
    for name, n, area, precision in zip(classes, support.tolist(), areas, precisions, strict=True):
        entry = {**scores["per_class"][name], "roc_auc": area, "average_precision": precision}
        scores["per_class"][name] = {"support": n, **entry}
    for key in ("roc_auc", "average_precision"):
        defined = [entry[key] for entry in scores["per_class"].values() if entry[key] is not None]
        scores["macro"][key] = float(np.mean(defined)) if defined else None
    return {
        "classes": list(classes),
        "n": len(labels),
        "accuracy": scores["accuracy"],
        "balanced_accuracy": scores["balanced_accuracy"],
        "log_loss": float(sample_log_loss(labels, table).mean()),
        "brier_score": brier_score(labels, table),
        "expected_calibration_error": expected_calibration_error(labels, table),
        "weighted": scores["weighted"],
        "macro": scores["macro"],
        "per_class": scores["per_class"],
        "confusion_matrix": matrix.tolist(),
    }


def _one_against_others(
    score: Callable[..., Any], truth: NDArray[np.bool_], table: NDArray[np.float64], defined: NDArray[np.bool_]
) -> list[float | None]:
    """Return one of scikit-learn's scores for each class; None where it is not defined.

    ``truth`` and ``table`` are (N, C). One call for all classes takes half the time of one call for each class.
    """
    found: list[float | None] = [None] * len(defined)
    if defined.any():
        with unchecked():
            values = np.atleast_1d(score(truth[:, defined], table[:, defined], average=None))
        for k, value in zip(np.flatnonzero(defined), values, strict=True):
            found[k] = float(value)
    return found


def confusion_matrix(y_true: ArrayLike, probabilities: ArrayLike) -> NDArray[np.int64]:
    """Return counts of shape (C, C): rows are true classes, columns are predicted classes, as in scikit-learn.

    The CVR-Net papers print the transpose: rows are predicted classes.

    >>> confusion_matrix([0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    array([[1, 0],
           [1, 1]])
    """
    labels, table = check(y_true, probabilities)
    n_classes = table.shape[1]
    return np.bincount(labels * n_classes + table.argmax(1), minlength=n_classes**2).reshape(n_classes, n_classes)


def confusion_scores(
    tp: NDArray[Any], support: NDArray[Any], predicted: NDArray[Any], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the scores that depend only on each class's numbers of true positives, images and predictions.

    ``tp``, ``support`` and ``predicted`` are the diagonal, the row sums and the column sums of confusion matrices:
    counts or weights of shape (..., C). The scores are arrays of shape (...), NaN where undefined.
    `classification_scores` and the bootstrap both use this function.
    """
    total = support.sum(-1, keepdims=True)
    tn = total - support - predicted + tp
    rates = {
        "sensitivity": ratio(tp, support),
        "specificity": ratio(tn, total - support),
        "ppv": ratio(tp, predicted),
        "npv": ratio(tn, total - predicted),
        "f1": ratio(2 * tp, support + predicted),
    }
    averaged = {"recall": "sensitivity", "precision": "ppv", "f1": "f1"}
    present = support > 0
    values = {key: np.where(present & ~np.isnan(rates[rate]), rates[rate], 0.0) for key, rate in averaged.items()}
    macro = {key: ratio(value.sum(-1), present.sum(-1)) for key, value in values.items()}
    return {
        "accuracy": ratio(tp.sum(-1), total[..., 0]),
        "balanced_accuracy": macro["recall"],
        "weighted": {key: ratio((value * support).sum(-1), total[..., 0]) for key, value in values.items()},
        "macro": macro,
        "per_class": {name: {key: rate[..., k] for key, rate in rates.items()} for k, name in enumerate(classes)},
    }


def mean_std(values: Sequence[Any], ddof: int = 0) -> dict[str, Any]:
    """Return mean and standard deviation over folds, of numbers or of score dictionaries (key by key, nested).

    Each number becomes ``{"mean", "std", "n"}``, where n is the number of folds in which it is defined (not None). If
    it is defined in no fold, mean and std are None. Texts and lists (such as the confusion matrix) are left out, and so
    is each key that is missing in any fold.

    `ddof=0` (dividing by n) gives the "mean ± standard deviation" of the CVR-Net papers: applied to the rows of single
    folds in Table 3 of the first paper, it gives every mean and standard deviation in that table. `ddof=1` (the sample
    standard deviation, larger by 12 % with five folds) does not.

    >>> mean_std([0.964, 0.966, 0.955, 0.968, 0.964])  # Table 3, Task-2, precision: 0.963 ± 0.004
    {'mean': 0.9634, 'std': 0.00445..., 'n': 5}
    >>> mean_std([{"macro": {"roc_auc": 0.5}}, {"macro": {"roc_auc": None}}])
    {'macro': {'roc_auc': {'mean': 0.5, 'std': 0.0, 'n': 1}}}
    """
    if not values:
        raise UserError("no folds to average")
    if isinstance(values[0], Mapping):
        shared = [key for key in values[0] if all(key in value for value in values)]
        columns = {key: [value[key] for value in values] for key in shared}
        labels = {key for key, column in columns.items() if any(isinstance(v, str | list | tuple) for v in column)}
        return {key: mean_std(column, ddof) for key, column in columns.items() if key not in labels}
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(defined):
        return {"mean": None, "std": None, "n": 0}
    std = float(defined.std(ddof=ddof)) if len(defined) > ddof else None
    return {"mean": float(defined.mean()), "std": std, "n": len(defined)}


def json_tree(tree: Any) -> Any:
    """Convert the scalars of a nested dictionary to floats, and NaN to None."""
    if isinstance(tree, Mapping):
        return {key: json_tree(value) for key, value in tree.items()}
    return None if np.isnan(tree) else float(tree)


def sample_log_loss(labels: NDArray[np.int64], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each sample's -ln p(true class), p clipped as in scikit-learn: shape (N,)."""
    p = table[np.arange(len(labels)), labels] / table.sum(1)
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(p, epsilon, 1 - epsilon))


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``part`` divided by ``whole``; NaN where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
