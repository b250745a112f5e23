"""Scores from labels and probabilities: pure functions on arrays, built on scikit-learn (extra ``train``).

Most functions take `y_true`, class indices of shape (N,), and `probabilities` of shape (N, C), whose rows sum to one.
The prediction is the class with the highest probability (of several such classes, the first). An undefined score, such
as the AUC if only one class is present, is None, without a warning.

The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from cvrnet.metrics.bootstrap import bootstrap_intervals
from cvrnet.metrics.calibration import brier_score, calibration_curve, expected_calibration_error
from cvrnet.metrics.decision_curve import decision_curves
from cvrnet.metrics.operating_points import OperatingPoint, choose_operating_points
from cvrnet.metrics.paired_tests import corrected_resampled_t_test, holm
from cvrnet.metrics.roc import precision_recall_curves, roc_curves
from cvrnet.metrics.scores import classification_scores, confusion_matrix, mean_std

__all__ = [
    "OperatingPoint",
    "bootstrap_intervals",
    "brier_score",
    "calibration_curve",
    "choose_operating_points",
    "classification_scores",
    "confusion_matrix",
    "corrected_resampled_t_test",
    "decision_curves",
    "expected_calibration_error",
    "holm",
    "mean_std",
    "precision_recall_curves",
    "roc_curves",
]
