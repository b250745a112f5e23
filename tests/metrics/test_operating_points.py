"""Thresholds chosen on validation images: their rules hold, they survive config.json, and bad ones are refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrnet.errors import UserError
from cvrnet.metrics import decision_curves
from cvrnet.metrics.operating_points import (
    OperatingPoint,
    average_operating_points,
    choose_operating_points,
    positives,
    select_operating_points,
)

CLASSES = ["CVP", "NCP"]
shares = st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1)
samples = st.lists(st.tuples(st.booleans(), shares), min_size=2, max_size=40).filter(
    lambda rows: len({truth for truth, _ in rows}) == 2
)


def arrays(rows):
    truth, p = (np.array(column, float) for column in zip(*rows, strict=True))
    return (1 - truth).astype(int), np.stack([p, 1 - p], 1)


def rates(y, table, point):
    """Sensitivity and specificity, counted image by image."""
    k = CLASSES.index(point.class_name)
    hit = [table[i, k] >= point.threshold for i in range(len(y))]
    of_class = [h for h, label in zip(hit, y, strict=True) if label == k]
    others = [not h for h, label in zip(hit, y, strict=True) if label != k]
    return sum(of_class), len(of_class), sum(others), len(others)


@given(samples, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_points_do_what_they_say(rows, target):
    y, table = arrays(rows)
    every = dict.fromkeys(CLASSES, target)
    for point in choose_operating_points(y, table, CLASSES, every, every):
        counts = (point.true_positives, point.positives, point.true_negatives, point.negatives)
        assert counts == rates(y, table, point)
        k = CLASSES.index(point.class_name)
        others = [
            rates(y, table, OperatingPoint(point.class_name, "youden", None, cut, 0, 1, 0, 1))
            for cut in [*np.unique(table[:, k]), 1.5]
        ]
        possible = [(tp / n, tn / m) for tp, n, tn, m in others]
        if point.rule == "youden":
            assert math.isclose(point.sensitivity + point.specificity, max(a + b for a, b in possible))
            continue
        first, second = (0, 1) if point.rule == "sensitivity" else (1, 0)
        useful = [pair for pair in possible if pair[0] > 0 and pair[1] > 0]
        mine = (point.sensitivity, point.specificity)
        if reached := [pair for pair in useful if pair[first] >= target]:
            assert mine[first] >= target
            assert mine[second] == max(pair[second] for pair in reached)
        elif useful:
            assert mine[first] == max(pair[first] for pair in useful)
            assert any("the nearest is" in warning for warning in point.warnings)
        else:
            assert any("on validation, " in warning for warning in point.warnings)


@given(samples)
def test_points_survive_json(rows):
    y, table = arrays(rows)
    points = choose_operating_points(y, table, CLASSES, {"CVP": 0.9}, {"NCP": 0.8})
    assert [OperatingPoint.from_dict(json.loads(json.dumps(asdict(point)))) for point in points] == points


def test_a_class_without_images_has_no_point():
    assert choose_operating_points([0, 0], [[0.9, 0.1], [0.8, 0.2]], CLASSES, {"CVP": 0.9}, {}) == []


@pytest.mark.parametrize(("number", "told"), [(9, "9 validation images"), (1, "1 validation image")])
def test_few_images_are_a_warning(number, told):
    y = [0] * number + [1] * 30
    table = [[0.9, 0.1]] * number + [[0.1, 0.9]] * 30
    points = choose_operating_points(y, table, CLASSES, dict.fromkeys(CLASSES, 0.9), {})
    warnings = {point.class_name: point.warnings for point in points if point.rule == "sensitivity"}
    assert warnings == {"CVP": [f"CVP: its thresholds are based on only {told} with this label"], "NCP": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": math.nan},
        {"threshold": "0.5"},
        {"positives": 0},
        {"true_negatives": 31},
        {"rule": "f1"},
        {"target": None},
        {"class_name": 3},
        {"more": 1},
    ],
)
def test_impossible_points_are_refused(wrong):
    good = asdict(OperatingPoint("CVP", "sensitivity", 0.9, 0.3, 9, 10, 20, 30))
    assert OperatingPoint.from_dict(good).sensitivity == 0.9
    with pytest.raises(ValueError, match=r"impossible values|not an operating point"):
        OperatingPoint.from_dict({**good, **wrong})


def test_an_ensemble_has_the_mean_threshold():
    one = [
        OperatingPoint("CVP", "sensitivity", 0.9, 0.2, 9, 10, 20, 30),
        OperatingPoint("CVP", "youden", None, 0.5, 8, 10, 25, 30),
    ]
    other = [OperatingPoint("CVP", "sensitivity", 0.9, 0.4, 10, 11, 21, 30)]
    (point,) = average_operating_points([one, other])
    assert point == OperatingPoint("CVP", "sensitivity", 0.9, pytest.approx(0.3), 19, 21, 41, 60)
    assert average_operating_points([one]) == one
    assert average_operating_points([]) == []


def test_selection_by_name():
    points = [
        OperatingPoint("CVP", "sensitivity", 0.9, 0.2, 9, 10, 20, 30),
        OperatingPoint("CVP", "youden", None, 0.5, 8, 10, 25, 30),
    ]
    assert select_operating_points(points, "sensitivity") == points[:1]
    assert select_operating_points(points, "sensitivity=0.90") == points[:1]
    assert select_operating_points(points, "youden") == points[1:]
    for wrong in ("sensitivity=0.8", "specificity", "sensitivity=high"):
        with pytest.raises(UserError, match=r"the model has sensitivity=0\.9, youden"):
            select_operating_points(points, wrong)
    with pytest.raises(UserError, match="the model has none"):
        select_operating_points([], "youden")


def test_positive_or_not():
    points = [OperatingPoint("NCP", "youden", None, 0.5, 8, 10, 25, 30)]
    np.testing.assert_array_equal(positives(points, [[0.5, 0.5], [0.6, 0.4]], CLASSES), [[np.nan, 1], [np.nan, 0]])


@given(samples)
def test_decision_curve_is_its_formula(rows):
    """Net benefit, counted image by image (Vickers & Elkin 2006)."""
    y, table = arrays(rows)
    curve = decision_curves(y, table, CLASSES)["per_class"]["CVP"]
    columns = (curve[key] for key in ("threshold", "net_benefit", "treat_all"))
    for threshold, benefit, treat_all in zip(*columns, strict=True):
        acted = [label == 0 for label, p in zip(y, table[:, 0], strict=True) if p >= threshold]
        odds = threshold / (1 - threshold)
        assert math.isclose(benefit, (sum(acted) - (len(acted) - sum(acted)) * odds) / len(y), abs_tol=1e-12)
        share = np.mean(y == 0)
        assert math.isclose(treat_all, share - (1 - share) * odds, abs_tol=1e-12)
