"""The scores of findings are scikit-learn's on the images of which they are known; intervals are those of one class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from cvrnet.metrics import bootstrap_intervals
from cvrnet.metrics.findings import finding_rankings, finding_scores
from cvrnet.metrics.paired_models import compare_auc, compare_mean_auc

NAMES = ["Edema", "Effusion", "Mass"]


def tables(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth with unknown cells, probabilities with ties, and patients of several images."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < [0.5, 0.2, 0.1]).astype(float)
    probabilities = np.clip(0.3 * truth + rng.random((n, 3)) * 0.7, 0, 1).round(2)
    truth[rng.random((n, 3)) < 0.15] = np.nan
    return truth, probabilities, [f"p{i // 2}" for i in range(n)]


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_scores_are_scikit_learns(seed: int) -> None:
    truth, probabilities, groups = tables(seed)
    scores = finding_scores(truth, probabilities, NAMES, groups, n=10)
    defined = []
    for k, name in enumerate(NAMES):
        known = ~np.isnan(truth[:, k])
        y, p = truth[known, k], probabilities[known, k]
        entry = scores["per_finding"][name]
        assert (entry["positives"], entry["negatives"], entry["unknown"]) == (y.sum(), (1 - y).sum(), (~known).sum())
        if len({*y}) < 2:
            assert name in scores["left_out"]
            assert entry["roc_auc"] is None
            continue
        assert entry["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p))
        assert entry["average_precision"] == pytest.approx(sk.average_precision_score(y, p))
        assert entry["brier_score"] == pytest.approx(sk.brier_score_loss(y, p))
        assert 0 <= entry["expected_calibration_error"] <= 1
        defined.append(entry["roc_auc"])
    assert scores["macro"]["roc_auc"] == pytest.approx(np.mean(defined))
    assert finding_rankings(truth, probabilities).tolist() == pytest.approx(defined)
    assert scores["patients"] == 40


def test_intervals_are_those_of_a_class() -> None:
    truth, probabilities, groups = tables(1)
    y = np.nan_to_num(truth[:, :1])
    ours = finding_scores(y, probabilities[:, :1], NAMES[:1], groups)
    both = np.column_stack([1 - probabilities[:, 0], probabilities[:, 0]])
    theirs = bootstrap_intervals(y[:, 0].astype(int), both, ["no", "yes"], groups)["per_class"]["yes"]
    assert ours["intervals"]["per_finding"]["Edema"]["roc_auc"] == pytest.approx(theirs["roc_auc"])
    assert ours["intervals"]["macro"]["roc_auc"] == pytest.approx(theirs["roc_auc"])
    expected = theirs["average_precision"]
    assert ours["intervals"]["per_finding"]["Edema"]["average_precision"] == pytest.approx(expected)


def test_calibration_error_of_probabilities_that_are_right_is_small() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((20_000, 1))
    y = (rng.random((20_000, 1)) < p).astype(float)
    right = finding_scores(y, p, ["Edema"], n=2)["macro"]["expected_calibration_error"]
    wrong = finding_scores(y, p / 2, ["Edema"], n=2)["macro"]["expected_calibration_error"]
    assert right < 0.02
    assert wrong == pytest.approx(0.25, abs=0.01)


def test_the_mean_auc_of_one_finding_is_delongs() -> None:
    truth, probabilities, groups = tables(3)
    known = ~np.isnan(truth[:, 0])
    other = np.clip(probabilities + np.random.default_rng(0).normal(0, 0.2, probabilities.shape), 0, 1)
    ours = compare_mean_auc(truth[:, :1], probabilities[:, :1], other[:, :1], groups)
    of = [group for group, keep in zip(groups, known, strict=True) if keep]
    theirs = compare_auc(truth[known, 0] == 1, probabilities[known, 0], other[known, 0], of)
    assert ours["difference"] == pytest.approx(theirs["difference"])
    # Without the covariance of positives and negatives of one patient, which `compare_auc` scales by all patients.
    assert ours["p"] == pytest.approx(theirs["p"], abs=0.02)
