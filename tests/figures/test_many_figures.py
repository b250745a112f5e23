"""Figures that compare models, findings, pictures or thresholds: all of their text can be read."""

import numpy as np
import pytest

from cvrnet import figures, metrics
from cvrnet.metrics.abstention import risk_coverage
from tests.support.readable import assert_readable, legend_texts

LONG = "cvrnet_convnext_tiny_efficientnetv2_rw_s:mean-logits"
NAMES = (["cvrnet", "resnet18"], ["cvrnet_lite", "cvrnet_lite:p3"], [LONG, "vit_$large$_patch14", "densenet121", "a"])
SCALES = (1.0, 0.08, 0.0004)


def interval(mean, reach):
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


@pytest.mark.parametrize("names", NAMES, ids=len)
@pytest.mark.parametrize("scale", SCALES)
def test_a_benchmark_can_be_read(names, scale):
    models = {}
    for k, name in enumerate(names):
        middle = 0.5 + scale * (k - 0.5) / len(names)
        models[name] = {"folds": {"balanced_accuracy": [middle - scale / 9, middle, middle + scale / 9, None]}}
        models[name]["independent"] = {"balanced_accuracy": {"mean": middle - scale / 5 if k else None}}
        if k:
            models[name]["difference"] = {"balanced_accuracy": interval(middle - 0.5, scale)}
    figure = figures.plot_comparison({"models": models, "reference": names[0], "independent": "a source, far away"})
    assert_readable(figure)
    assert "".join(figure.axes[1].get_xlabel().split()) == f"Balancedaccuracy:differencefrom{names[0]}"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reference", ["run", "price_$5$ and a folder with a name of many words, from 2024"])
def test_differences_on_the_same_images_can_be_read(scale, reference):
    rows = [
        {"model": LONG, "reference": reference, "score": score, "class": "COVID-19", "difference": scale * k / 3}
        for k, score in enumerate(["accuracy", "auc_macro", "auc"])
    ]
    for row in rows:
        row |= {"low": row["difference"] - scale, "high": row["difference"] + scale / 2}
    assert_readable(figures.plot_paired(rows))


@pytest.mark.parametrize("scale", SCALES)
def test_findings_can_be_read(scale):
    rows = [
        {"finding": name, "roc_auc": 0.5 + scale / 3, "roc_auc_low": 0.5, "roc_auc_high": 0.5 + scale / 2}
        for name in ("Edema", "Enlarged cardiomediastinum, $unclear$", "_hidden", "mean")
    ]
    rows[1] |= {"roc_auc_low": None, "roc_auc_high": None}
    assert_readable(figures.plot_findings(rows, "Findings of two sources"))


@pytest.mark.parametrize("days", [[0, 0, 0, 0], [400, 31, 2, 0], [0.5, 0.2, 0.1, 0], [12_000, 4_000, 30, 0]])
@pytest.mark.parametrize("lesions", [True, False])
def test_attention_can_be_read(days, lesions):
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    bags = [(f"patient {k}, $study$ of a long name_{k}", shares, shares > 0.25 * (2 - lesions), days) for k in range(3)]
    figure = figures.plot_attention(bags)
    assert_readable(figure)
    assert bool(figure.legends) == lesions


@pytest.mark.parametrize("names", [["NOR", "CVP"], [f"Pneumonia of the kind number {k}" for k in range(18)], range(40)])
def test_decision_curves_can_be_read(names):
    rng = np.random.default_rng(0)
    names = [str(name) for name in names]
    table = rng.dirichlet(np.ones(len(names)), size=300)
    curves = metrics.decision_curves(rng.integers(len(names), size=300), table, names)
    assert_readable(figures.plot_decision_curves(curves, "Net benefit"))


@pytest.mark.parametrize("right", [1.0, 0.999, 0.5])
def test_risk_coverage_can_be_read(right):
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(3), size=1500)
    labels = np.where(rng.random(1500) < right, table.argmax(1), table.argmin(1))
    curves = {name: risk_coverage(labels, table, "entropy") for name in ("Test images", "Images of a source, $new$")}
    figure = figures.plot_risk_coverage(curves)
    assert_readable(figure)
    assert len(legend_texts(figure)) == 2
