"""Prediction sets keep their promise, and abstention passes on the most uncertain images."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrnet.metrics.abstention import SCORES, SHARES, Abstention, choose_abstention, risk_coverage
from cvrnet.metrics.conformal import COVERAGES, PredictionSets, average_sets, calibrate_sets

CLASSES = ["CVP", "NCP", "NOR"]


def draw(n, seed, skill=1.0):
    """Labels, and probabilities that are calibrated if the skill is 1."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, 0.6), n)
    y = np.array([rng.choice(3, p=row) for row in p])
    return y, p**skill / (p**skill).sum(1, keepdims=True)


@given(st.integers(0, 10_000), st.integers(20, 200))
def test_the_limit_is_the_papers(seed, n):
    """With one image a patient: the ceil((n + 1)(1 - alpha))-th smallest score (Angelopoulos & Bates 2021,
    arXiv 2107.07511, section 1)."""
    y, p = draw(n, seed)
    sets = calibrate_sets(y, p, CLASSES, range(n))
    scores = 1 - p[np.arange(n), y]
    for coverage, least in zip(COVERAGES, sets.least, strict=True):
        rank = math.ceil(round((n + 1) * coverage, 9))
        expected = 0.0 if rank > n else 1 - np.sort(scores)[rank - 1]
        assert least == pytest.approx(expected, abs=1.1e-6)
        assert least <= expected + 1e-12


@pytest.mark.parametrize("skill", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("images", [1, 4])
def test_new_patients_are_covered(skill, images):
    """Over many calibrations, with probabilities that are far from calibrated too, and several images a patient."""
    achieved, by_class = [], []
    for seed in range(60):
        y, p = draw(200, seed, skill)
        copies = np.repeat(np.arange(100), np.where(np.arange(100) % 2, images, 1))  # of every second patient, several
        sets = calibrate_sets(y[copies], p[copies], CLASSES, copies)
        members = sets.members(p[100:], CLASSES, 0.9)[np.arange(100), y[100:]]
        achieved.append(members.mean())
        by_class.append(sets.members(p[100:], CLASSES, 0.9, by_class=True)[np.arange(100), y[100:]].mean())
    assert np.mean(achieved) > 0.885
    assert np.mean(by_class) > 0.885
    assert images > 1 or np.mean(achieved) < 0.95


@given(st.integers(0, 10_000))
def test_images_of_a_patient_count_once(seed):
    y, p = draw(50, seed)
    many = np.repeat(np.arange(50), 3)
    assert calibrate_sets(y, p, CLASSES, range(50)) == calibrate_sets(y[many], p[many], CLASSES, many)


def test_too_few_patients_give_all_classes():
    y, p = draw(5, 0)
    sets = calibrate_sets(y, p, CLASSES, range(5))
    assert sets.members(p, CLASSES, 0.9).all()
    assert sets.by_class == {}
    assert sets.members(p, CLASSES, 0.5, by_class=True).all()


def test_sets_survive_json_and_average():
    sets = [calibrate_sets(*draw(100, seed), CLASSES, range(100)) for seed in (1, 2)]
    assert PredictionSets.from_dict(json.loads(json.dumps(asdict(sets[0]))), CLASSES) == sets[0]
    both = average_sets(sets)
    assert both.patients == 200
    np.testing.assert_allclose(both.least, np.mean([sets[0].least, sets[1].least], axis=0))
    assert average_sets([sets[0], None]) is None
    assert average_sets([]) is None


@given(st.integers(0, 10_000), st.sampled_from(sorted(SCORES)))
def test_risk_is_counted_image_by_image(seed, score):
    y, p = draw(30, seed)
    curve = risk_coverage(y, p, score)
    uncertain = SCORES[score](p)
    for coverage, risk, limit in zip(curve["coverage"], curve["risk"], np.sort(uncertain), strict=True):
        answered = uncertain <= limit
        assert answered.mean() == pytest.approx(coverage)
        assert risk == pytest.approx((p.argmax(1) != y)[answered].mean())


@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.99]))
def test_the_share_is_that_of_validation(seed, share):
    y, p = draw(100, seed)
    abstention = choose_abstention(y, p, CLASSES)
    passed = abstention.passed_on(p, share)
    assert abs(passed.mean() - share) <= 0.011
    scores = SCORES[abstention.score](p)
    if passed.any() and not passed.all():
        assert scores[passed].min() >= scores[~passed].max() - 1e-6
    best = min(SCORES, key=lambda name: risk_coverage(y, p, name)["area"])
    assert abstention.score == best
    assert Abstention.from_dict(json.loads(json.dumps(asdict(abstention)))) == abstention
    assert len(abstention.limits) == len(SHARES)
