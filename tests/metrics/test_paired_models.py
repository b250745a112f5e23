"""Paired tests: DeLong's as a published implementation computes it, and with patients as clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from cvrnet.errors import UserError
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.metrics.paired_models import auc_covariance, compare_accuracy, compare_auc, compare_mean_auc


def published_case():
    """Sixty images with ties, from a linear congruential sequence."""
    values, x = [], 1
    for _ in range(180):
        x = (1103515245 * x + 12345) % 2**31
        values.append(x / 2**31)
    v = np.array(values)
    y = v[:60] < 0.4
    return y, np.round(v[60:120] + 0.5 * y, 1), np.round(v[120:] + 0.3 * y, 2)


def test_delong_is_that_of_a_published_implementation():
    """Expected: what github.com/yandexdataschool/roc_comparison (commit 8f60117) gives for these numbers."""
    y, a, b = published_case()
    aucs, covariance = auc_covariance(y, [a, b])
    np.testing.assert_allclose(aucs, [0.90305523, 0.70035253], atol=1e-8)
    expected = [[1.29847211e-03, -5.17332588e-05], [-5.17332588e-05, 4.84008855e-03]]
    np.testing.assert_allclose(covariance, expected, rtol=1e-7)
    assert compare_auc(y, a, b)["p"] == pytest.approx(0.01029839, abs=1e-8)


def draw(seed, images=3, patients=40):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), images)
    y = np.repeat(np.arange(patients) % 2 == 0, images)
    common = np.repeat(rng.normal(size=patients), images)
    scores = [y + common + rng.normal(size=len(y)) + np.repeat(rng.normal(size=patients), images) for _ in range(2)]
    return y, scores, groups.tolist()


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_properties(seed):
    y, (a, b), groups = draw(seed)
    test, swapped = compare_auc(y, a, b, groups), compare_auc(y, b, a, groups)
    assert test["one"] == pytest.approx(roc_auc_score(y, a))
    assert test["difference"] == pytest.approx(-swapped["difference"])
    assert (test["low"], test["p"]) == pytest.approx((-swapped["high"], swapped["p"]))
    assert compare_auc(y, a, a, groups) | {"one": 0, "other": 0} == {
        "one": 0, "other": 0, "difference": 0, "low": 0, "high": 0, "p": 1,
    }  # fmt: skip
    renamed = [f"p{-group}" for group in groups]
    assert compare_auc(y, a, b, renamed) == pytest.approx(test)
    # Another copy of every image is no further information.
    twice = [np.tile(x, 2) for x in (y, a, b)]
    copied = compare_auc(twice[0], twice[1], twice[2], groups * 2)
    assert (copied["difference"], copied["low"]) == pytest.approx((test["difference"], test["low"]))
    # One class against the other: the macro mean of two classes is the AUC of either.
    p = [np.stack([1 / (1 + np.exp(x)), 1 / (1 + np.exp(-x))], 1) for x in (a, b)]
    macro = compare_mean_auc(np.eye(2)[y.astype(int)], *p, groups)
    assert macro["difference"] == pytest.approx(test["difference"])
    assert macro["high"] - macro["low"] == pytest.approx(test["high"] - test["low"], rel=0.05)


def test_only_clusters_keep_the_error_rate():
    """400 comparisons of equally good models, with three images a patient."""
    found = {"clustered": [], "not": [], "accuracy": [], "accuracy, not": []}
    for seed in range(400):
        y, (a, b), groups = draw(seed)
        right = [(x > 0.5) == y for x in (a, b)]
        found["clustered"].append(compare_auc(y, a, b, groups)["p"] < 0.05)
        found["not"].append(compare_auc(y, a, b)["p"] < 0.05)
        found["accuracy"].append(compare_accuracy(*right, groups)["p"] < 0.05)
        found["accuracy, not"].append(compare_accuracy(*right)["p"] < 0.05)
    rate = {name: np.mean(values) for name, values in found.items()}
    assert 0.02 < rate["clustered"] < 0.08
    assert 0.02 < rate["accuracy"] < 0.08
    assert rate["not"] > 0.1
    assert rate["accuracy, not"] > 0.08


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_accuracy_of_single_images_is_mcnemars_exact_test(pairs):
    a, b = np.array(pairs).T
    test = compare_accuracy(a, b)
    only, discordant = int((a & ~b).sum()), int((a != b).sum())
    assert test["p"] == pytest.approx(stats.binomtest(only, discordant).pvalue if discordant else 1)
    assert test["difference"] == pytest.approx(a.mean() - b.mean())
    assert compare_accuracy(b, a)["p"] == pytest.approx(test["p"])


def test_too_few_patients():
    with pytest.raises(UserError, match="positive images: 1, with negative images: 2; expected at least 2 of each"):
        auc_covariance([1, 1, 0, 0], [[1, 2, 3, 4]], ["a", "a", "b", "c"])


def test_macro_mean_of_two_classes_is_delongs():
    """Few positive images, each of its own patient: the variance is DeLong's exactly."""
    rng = np.random.default_rng(0)
    y = np.arange(30) < 4
    a, b = (rng.random(30) + 0.3 * y for _ in range(2))
    tables = [np.stack([1 - x, x], 1) for x in (a, b)]
    assert compare_mean_auc(np.eye(2)[y.astype(int)], *tables) == pytest.approx(compare_auc(y, a, b))


def test_macro_mean_needs_two_patients_of_each_class():
    rng = np.random.default_rng(0)
    tables = rng.dirichlet([1, 1, 1], (2, 9))
    with pytest.raises(UserError, match=r"only 1 patient has class 2 \(counted from 0\)"):
        compare_mean_auc(np.eye(3)[[0, 0, 0, 0, 1, 1, 1, 1, 2]], *tables)


def test_interval_of_accuracy_with_unequal_patients():
    """Patients with many images differ no more than others: equal differences leave the interval without width."""
    groups = ["a"] * 5 + ["b"] + ["c"] * 2
    test = compare_accuracy([1] * 8, [0] * 8, groups)
    assert (test["low"], test["high"]) == pytest.approx((1, 1))


def test_interval_of_accuracy_is_that_of_resampled_patients():
    """Against the bootstrap by patient, with one to nine images of each."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), rng.integers(1, 10, 300))
    right, other = rng.random(len(groups)) < 0.9, rng.random(len(groups)) < 0.4
    test = compare_accuracy(right, other, groups.tolist())
    _, bounds = mean_interval(right.astype(float) - other, groups.tolist())
    assert test["high"] - test["low"] == pytest.approx(bounds[1] - bounds[0], rel=0.1)
