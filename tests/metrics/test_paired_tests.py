"""Tests of paired folds, against SciPy's t-test and hand-made cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cvrnet.errors import UserError
from cvrnet.metrics import corrected_resampled_t_test, holm

differences = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=12).filter(lambda d: np.std(d) > 1e-6)


@given(differences)
def test_without_the_correction_it_is_scipys(values):
    ours = corrected_resampled_t_test(values, n_train=100, n_test=0)
    theirs = stats.ttest_1samp(values, 0)
    assert ours["t"] == pytest.approx(theirs.statistic, rel=1e-9, abs=1e-9)
    assert ours["p"] == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-12)
    low, high = theirs.confidence_interval(0.95)
    assert (ours["low"], ours["high"]) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


@given(differences, st.floats(0.05, 2))
def test_the_correction_only_widens(values, share):
    plain = corrected_resampled_t_test(values, 1000, 0)
    corrected = corrected_resampled_t_test(values, 1000, 1000 * share)
    factor = np.sqrt((1 / len(values) + share) * len(values))
    assert corrected["mean"] == plain["mean"]
    assert corrected["high"] - corrected["low"] == pytest.approx(factor * (plain["high"] - plain["low"]), rel=1e-9)
    assert corrected["p"] >= plain["p"]
    # the p-value and the interval say the same
    assert (corrected["p"] < 0.05) == (corrected["low"] > 0 or corrected["high"] < 0)


def test_chance_is_called_a_difference_in_a_twentieth_of_the_benchmarks():
    """Folds that share training images: a common error of the variance that Nadeau and Bengio assume."""
    rng = np.random.default_rng(0)
    k, n_train, n_test = 5, 300, 100
    rho = n_test / (n_train + n_test)  # their correlation of two folds' differences
    common = rng.normal(size=(4000, 1)) * np.sqrt(rho)
    folds = common + rng.normal(size=(4000, k)) * np.sqrt(1 - rho)
    found = np.mean([corrected_resampled_t_test(d, n_train, n_test)["p"] < 0.05 for d in folds])
    naive = np.mean(stats.ttest_1samp(folds, 0, axis=1).pvalue < 0.05)
    assert 0.03 < found < 0.07
    assert naive > 0.12


def test_folds_without_variance():
    assert corrected_resampled_t_test([0.0, 0.0, 0.0], 3, 1)["p"] == 1
    same = corrected_resampled_t_test([0.25, 0.25], 3, 1)
    assert (same["p"], same["low"], same["high"]) == (0, 0.25, 0.25)
    with pytest.raises(UserError, match="at least 2 folds"):
        corrected_resampled_t_test([0.1], 3, 1)
    with pytest.raises(UserError, match="n_train at least 1"):
        corrected_resampled_t_test([0.1, 0.2], 0, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_values_and_bonferroni(p):
    adjusted = holm(p)
    assert all(a <= b <= min(1, a * len(p)) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1, min(p) * len(p)))
