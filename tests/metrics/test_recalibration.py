"""Recalibration finds the temperature, the biases and the shares that simulated images were made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import log_loss

from cvrnet.errors import UserError
from cvrnet.metrics.recalibration import Recalibration, fit_prior, fit_recalibration, free_biases


def draw(n, seed):
    """Labels, and the probabilities (N, 3) that they follow."""
    rng = np.random.default_rng(seed)
    table = softmax(rng.normal(0, 1.5, (n, 3)), axis=-1)
    y = np.array([rng.choice(3, p=row) for row in table])
    y[:2] = 0, 1
    return y, table


def loss(y, table, weights=None):
    return log_loss(y, table, labels=[0, 1, 2], sample_weight=weights)


def test_the_parameters_are_found():
    y, true = draw(20_000, 0)
    bias = np.array([0.8, -0.3, -0.5])
    distorted = softmax((np.log(true) - bias) / 0.6, axis=-1)  # scale 0.6 and these biases undo it
    found = fit_recalibration(y, distorted, range(len(y)))
    assert found.scale == pytest.approx(0.6, abs=0.02)
    assert found.bias == pytest.approx(bias, abs=0.06)
    np.testing.assert_allclose(found(distorted), true, atol=0.02)


def test_the_optimum_is_that_of_a_search_without_gradient():
    y, table = draw(60, 3)
    groups = np.arange(60) // 2
    weights = np.full(60, 0.5)

    def penalised(v):
        new = softmax(np.exp(v[0]) * np.log(table) + v[1:], axis=-1)
        return loss(y, new, weights) * weights.sum() + v @ v / 2

    options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    best = minimize(penalised, np.zeros(4), method="Nelder-Mead", options=options)
    found = fit_recalibration(y, table, groups.tolist())
    assert [np.log(found.scale), *found.bias] == pytest.approx(best.x, abs=1e-3)


@given(st.integers(0, 10_000), st.integers(20, 80))
def test_it_never_gets_worse_on_its_own_images(seed, n):
    y, table = draw(n, seed)
    found = fit_recalibration(y, table, range(n))
    assert loss(y, found(table)) <= loss(y, table) + 1e-9
    assert sum(found.bias) == pytest.approx(0, abs=1e-3) or len(free_biases(y.tolist(), range(n), 3)) < 3


@given(st.integers(0, 10_000))
def test_what_does_not_matter(seed):
    """Copies of a patient's images, and the order of the classes."""
    y, table = draw(40, seed)
    found = fit_recalibration(y, table, range(40))
    copied = np.repeat(np.arange(40), 1 + np.arange(40) % 3)
    other = fit_recalibration(y[copied], table[copied], copied.tolist())
    assert [other.scale, *other.bias] == pytest.approx([found.scale, *found.bias], abs=2e-3)
    turned = fit_recalibration((y + 1) % 3, np.roll(table, 1, axis=-1), range(40))
    assert [turned.scale, *np.roll(turned.bias, -1)] == pytest.approx([found.scale, *found.bias], abs=2e-3)


def test_a_rare_class_keeps_its_bias():
    y, table = draw(200, 1)
    y[y == 2] = 0
    y[:4] = 2
    found = fit_recalibration(y, table, range(200))
    assert found.bias[2] == 0
    assert found.bias[0] != 0


def test_one_class_tells_nothing():
    with pytest.raises(UserError, match="one class"):
        fit_recalibration([1] * 30, draw(30, 0)[1], range(30))


def test_the_shares_of_the_classes_are_found():
    """Three overlapping normal distributions: scipy knows the posterior under equal and under other shares."""
    rng = np.random.default_rng(0)
    prior, means = np.array([0.7, 0.2, 0.1]), np.array([-1.5, 0.0, 1.5])
    x = rng.normal(means[rng.choice(3, 20_000, p=prior)], 1.0)
    density = norm.pdf(x[:, None], means, 1.0)
    equal, true = (density * p / (density * p).sum(1, keepdims=True) for p in (np.full(3, 1 / 3), prior))
    found, shares = fit_prior(equal, [1 / 3] * 3)
    assert shares == pytest.approx(prior, abs=0.02)
    assert found.scale == 1
    np.testing.assert_allclose(found(equal), true, atol=0.03)


@given(st.integers(0, 10_000))
def test_the_shares_are_those_of_the_new_answers(seed):
    """The fixed point of the expectation maximisation; another assumed share leads to the same likelihoods."""
    _, table = draw(50, seed)
    found, shares = fit_prior(table, [1 / 3] * 3)
    if min(shares) > 1e-4:  # not at the edge, which is approached slowly
        assert found(table).mean(0) == pytest.approx(shares, abs=1e-4)
        assumed = np.array([0.5, 0.3, 0.2])
        weighted = table * assumed
        _, again = fit_prior(weighted / weighted.sum(-1, keepdims=True), assumed.tolist())
        assert again == pytest.approx(shares, abs=1e-3)


def test_no_change_is_no_change():
    table = draw(10, 0)[1]
    np.testing.assert_allclose(Recalibration(1.0, (0.0,) * 3)(table), table, atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"scale": 1.0},
        {"scale": 1.0, "bias": [0.0, 0.0]},
        {"scale": 1.0, "bias": "abc"},
        {"scale": 1.0, "bias": [0.0, 0.0, 0.0], "more": 1},
        {"scale": 0.0, "bias": [0.0, 0.0, 0.0]},
        {"scale": -1.0, "bias": [0.0, 0.0, 0.0]},
        {"scale": True, "bias": [0.0, 0.0, 0.0]},
        {"scale": "1", "bias": [0.0, 0.0, 0.0]},
        {"scale": float("nan"), "bias": [0.0, 0.0, 0.0]},
        {"scale": 1.0, "bias": [0.0, 0.0, float("inf")]},
        {"scale": 1.0, "bias": [0.0, 0.0, 10**400]},
    ],
)
def test_a_file_with_an_impossible_calibration(values):
    with pytest.raises(ValueError, match="its calibration has"):
        Recalibration.from_dict(values, ["a", "b", "c"])
