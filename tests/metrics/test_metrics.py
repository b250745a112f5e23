"""Scores, against scikit-learn, SciPy and the papers' published tables."""

import inspect
import json
import tracemalloc
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration
from sklearn import metrics as sk

from cvrnet import metrics
from cvrnet.errors import UserError
from cvrnet.metrics import bootstrap
from cvrnet.metrics.bootstrap import auc_interval

EXACT = {"rtol": 0, "atol": 1e-12}
pytestmark = pytest.mark.filterwarnings("error")


def names(n):
    return [f"class {k}" for k in range(n)]


def make(n, n_classes, seed=0, skill=1.5):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    z = rng.normal(size=(n, n_classes))
    z[np.arange(n), y] += skill
    p = np.exp(z)
    return y, p / p.sum(1, keepdims=True)


@st.composite
def predictions(draw, min_size=1):
    """Labels and probabilities with many ties; classes may be absent, or never predicted, or the only one."""
    n_classes = draw(st.integers(2, 5))
    n = draw(st.integers(min_size, 30))
    y = np.array(draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)))
    weights = st.lists(st.integers(0, 4), min_size=n_classes, max_size=n_classes).filter(any)
    p = np.array(draw(st.lists(weights, min_size=n, max_size=n)), dtype=float)
    return y, p / p.sum(1, keepdims=True), names(n_classes)


def leaves(tree, prefix=()):
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, (*prefix, key))
    else:
        yield prefix, tree


def assert_same(ours, reference):
    """None where the reference is NaN, equal to 1e-12 elsewhere."""
    if np.isnan(reference):
        assert ours is None
    else:
        np.testing.assert_allclose(ours, reference, **EXACT)


@given(predictions())
@settings(deadline=None)
def test_scores_agree_with_scikit_learn(data):
    y, p, classes = data
    labels, predicted, n_classes = range(len(classes)), p.argmax(1), len(classes)
    scores = metrics.classification_scores(y, p, classes)
    json.dumps(scores, allow_nan=False)
    assert scores["n"] == len(y)
    assert scores["confusion_matrix"] == sk.confusion_matrix(y, predicted, labels=labels).tolist()
    np.testing.assert_allclose(scores["accuracy"], sk.accuracy_score(y, predicted), **EXACT)
    np.testing.assert_allclose(scores["log_loss"], sk.log_loss(y, p, labels=labels), **EXACT)
    onehot = np.eye(n_classes)[y]
    brier = n_classes * sk.mean_squared_error(onehot, p)
    np.testing.assert_allclose(scores["brier_score"], brier, **EXACT)
    present = np.unique(y)
    for average in ("weighted", "macro"):
        reference = sk.precision_recall_fscore_support(y, predicted, labels=present, average=average, zero_division=0)
        ours = [scores[average][key] for key in ("precision", "recall", "f1")]
        np.testing.assert_allclose(ours, reference[:3], **EXACT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are predicted and absent
        np.testing.assert_allclose(scores["balanced_accuracy"], sk.balanced_accuracy_score(y, predicted), **EXACT)

    entries = [scores["per_class"][name] for name in classes]
    ppv, sensitivity, f1, support = sk.precision_recall_fscore_support(
        y, predicted, labels=labels, zero_division=np.nan
    )
    tables = sk.multilabel_confusion_matrix(y, predicted, labels=labels)
    aucs, precisions = [], []
    for k, entry in enumerate(entries):
        assert entry["support"] == support[k]
        assert_same(entry["ppv"], ppv[k])
        assert_same(entry["sensitivity"], sensitivity[k])
        assert_same(entry["f1"], f1[k])
        (tn, fp), (fn, _) = tables[k]
        assert_same(entry["specificity"], tn / (tn + fp) if tn + fp else np.nan)
        assert_same(entry["npv"], tn / (tn + fn) if tn + fn else np.nan)
        both = 0 < support[k] < len(y)
        aucs.append(sk.roc_auc_score(y == k, p[:, k]) if both else np.nan)
        precisions.append(sk.average_precision_score(y == k, p[:, k]) if support[k] else np.nan)
        assert_same(entry["roc_auc"], aucs[-1])
        assert_same(entry["average_precision"], precisions[-1])
    assert_same(scores["macro"]["roc_auc"], np.nanmean(aucs) if not np.isnan(aucs).all() else np.nan)
    assert_same(scores["macro"]["average_precision"], np.nanmean(precisions))
    if len(present) == n_classes:
        auc = sk.roc_auc_score(y, p[:, 1]) if n_classes == 2 else sk.roc_auc_score(y, p, multi_class="ovr")
        np.testing.assert_allclose(scores["macro"]["roc_auc"], auc, **EXACT)
        np.testing.assert_allclose(
            scores["macro"]["average_precision"], sk.average_precision_score(onehot, p, average="macro"), **EXACT
        )


@pytest.mark.skipif(
    "scale_by_half" not in inspect.signature(sk.brier_score_loss).parameters, reason="scikit-learn of two classes only"
)
def test_brier_score_agrees_with_scikit_learn():
    y, p = make(200, 3)
    reference = sk.brier_score_loss(y, p, labels=[0, 1, 2], scale_by_half=False)
    np.testing.assert_allclose(metrics.brier_score(y, p), reference, **EXACT)


def test_brier_score_of_two_classes_is_twice_that_of_one():
    y, p = make(200, 2)
    np.testing.assert_allclose(metrics.brier_score(y, p), 2 * sk.brier_score_loss(y, p[:, 1]), **EXACT)


def test_one_class_present():
    scores = metrics.classification_scores([1, 1], [[0.2, 0.8], [0.6, 0.4]], ["NOR", "CVP"])
    assert scores["macro"]["roc_auc"] is None
    assert scores["per_class"]["NOR"] == {
        "support": 0,
        "sensitivity": None,
        "specificity": 0.5,
        "ppv": 0.0,
        "npv": 1.0,
        "f1": 0.0,
        "roc_auc": None,
        "average_precision": None,
    }
    assert scores["per_class"]["CVP"]["specificity"] is None
    assert scores["macro"]["recall"] == scores["accuracy"] == 0.5  # the absent class does not count


@pytest.mark.parametrize("dtype", [np.float16, np.float32, list])
def test_probabilities_of_other_types(dtype):
    y, p = make(50, 3)
    converted = p.tolist() if dtype is list else p.astype(dtype)
    scores = metrics.classification_scores(y.tolist(), converted, names(3))
    reference = metrics.classification_scores(y, np.asarray(converted, dtype=float), names(3))
    assert scores == reference


# The first paper's Tables 5-7, turned: rows true, columns predicted; Table 3's average recall, precision, F1, accuracy.
PUBLISHED = {
    "Task-2": ([[1461, 119, 3], [80, 4185, 8], [6, 15, 479]], (0.964, 0.963, 0.963, 0.964)),
    "Task-3": (
        [[1498, 31, 52, 2], [76, 2369, 330, 5], [74, 529, 885, 5], [13, 14, 13, 460]],
        (0.820, 0.816, 0.816, 0.820),
    ),
    "Task-4": ([[1522, 126, 0], [88, 4276, 7], [7, 26, 467]], (0.961, 0.961, 0.961, 0.961)),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_tables(task):
    """The published confusion matrix gives the published scores (means over folds, so to the last printed digit)."""
    matrix, published = PUBLISHED[task]
    n_classes = len(matrix)
    true, predicted = np.divmod(np.repeat(np.arange(n_classes**2), np.ravel(matrix)), n_classes)
    scores = metrics.classification_scores(true, np.eye(n_classes)[predicted], names(n_classes))
    assert scores["confusion_matrix"] == matrix
    ours = [*scores["weighted"].values(), scores["accuracy"]]
    np.testing.assert_allclose(ours, published, atol=0.001, rtol=0)


# the first paper's Table 3: the fold rows, and the printed "mean ± standard deviation".
FOLDS = {
    "Task-1 recall": ([0.995, 0.998, 0.996, 0.998, 0.998], "0.997 ± 0.001"),
    "Task-2 recall": ([0.964, 0.966, 0.955, 0.969, 0.965], "0.964 ± 0.005"),
    "Task-2 precision": ([0.964, 0.966, 0.955, 0.968, 0.964], "0.963 ± 0.004"),
    "Task-2 F1": ([0.963, 0.966, 0.955, 0.968, 0.964], "0.963 ± 0.004"),
    "Task-3 recall": ([0.811, 0.818, 0.823, 0.817, 0.831], "0.820 ± 0.007"),
    "Task-3 precision": ([0.808, 0.813, 0.819, 0.815, 0.827], "0.816 ± 0.006"),
    "Task-3 F1": ([0.808, 0.813, 0.819, 0.815, 0.826], "0.816 ± 0.006"),
    "Task-4 recall": ([0.972, 0.960, 0.965, 0.952, 0.955], "0.961 ± 0.007"),
    "Task-4 precision": ([0.972, 0.961, 0.965, 0.952, 0.955], "0.961 ± 0.007"),
    "Task-4 F1": ([0.972, 0.960, 0.965, 0.951, 0.955], "0.961 ± 0.007"),
}


@pytest.mark.parametrize("cell", FOLDS)
def test_mean_std_gives_the_published_cells(cell):
    values, printed = FOLDS[cell]
    result = metrics.mean_std(values)
    assert f"{result['mean']:.3f} ± {result['std']:.3f}" == printed


def test_mean_std_of_nested_scores():
    folds = [metrics.classification_scores(*make(60, 3, seed), names(3)) for seed in range(4)]
    folds.append(metrics.classification_scores([0], [[0.5, 0.25, 0.25]], names(3)))  # most is undefined here
    result = metrics.mean_std(folds)
    assert "confusion_matrix" not in result
    assert "classes" not in result
    accuracies = [fold["accuracy"] for fold in folds]
    assert result["accuracy"] == {"mean": np.mean(accuracies), "std": np.std(accuracies), "n": 5}
    assert result["macro"]["roc_auc"]["n"] == 4
    assert metrics.mean_std([1.0, 2.0], ddof=1)["std"] == pytest.approx(np.sqrt(0.5))
    assert metrics.mean_std([1.0], ddof=1)["std"] is None
    assert metrics.mean_std([None]) == {"mean": None, "std": None, "n": 0}
    with pytest.raises(UserError, match="no folds"):
        metrics.mean_std([])


@given(predictions())
@settings(deadline=None)
def test_curves_agree_with_scikit_learn(data):
    y, p, classes = data
    roc, pr = metrics.roc_curves(y, p, classes), metrics.precision_recall_curves(y, p, classes)
    for k, name in enumerate(classes):
        ours = roc["per_class"][name]
        if 0 < (y == k).sum() < len(y):
            fpr, tpr, threshold = sk.roc_curve(y == k, p[:, k])
            np.testing.assert_allclose(ours["fpr"], fpr, **EXACT)
            np.testing.assert_allclose(ours["tpr"], tpr, **EXACT)
            np.testing.assert_allclose(ours["threshold"][1:], threshold[1:], **EXACT)
            assert 1 < ours["threshold"][0] < 1.001
            np.testing.assert_allclose(ours["auc"], sk.roc_auc_score(y == k, p[:, k]), **EXACT)
        else:
            assert ours is None
        ours = pr["per_class"][name]
        if (y == k).any():
            precision, recall, threshold = sk.precision_recall_curve(y == k, p[:, k])
            np.testing.assert_allclose(ours["precision"], precision, **EXACT)
            np.testing.assert_allclose(ours["recall"], recall, **EXACT)
            np.testing.assert_allclose(ours["threshold"][:-1], threshold, **EXACT)
            assert ours["threshold"][-1] > 1
        else:
            assert ours is None


@given(predictions())
@settings(deadline=None)
def test_area_under_the_macro_curves_is_the_macro_score(data):
    y, p, classes = data
    macro = metrics.classification_scores(y, p, classes)["macro"]
    roc, pr = metrics.roc_curves(y, p, classes)["macro"], metrics.precision_recall_curves(y, p, classes)["macro"]
    if macro["roc_auc"] is None:
        assert roc is None
    else:
        np.testing.assert_allclose([sk.auc(roc["fpr"], roc["tpr"]), roc["auc"]], macro["roc_auc"], **EXACT)
        assert (roc["fpr"][[0, -1]].tolist(), roc["tpr"][[0, -1]].tolist()) == ([0, 1], [0, 1])
        assert (np.diff(roc["tpr"]) >= -1e-12).all()
    area = -(np.diff(pr["recall"]) * pr["precision"][:-1]).sum()
    np.testing.assert_allclose([area, pr["average_precision"]], macro["average_precision"], **EXACT)


@given(predictions(), st.integers(1, 20))
@settings(deadline=None)
def test_calibration_agrees_with_scikit_learn(data, n_bins):
    y, p, classes = data
    curves = metrics.calibration_curve(y, p, classes, n_bins)
    top, correct = curves["top_label"], p.argmax(1) == y
    pairs = [(curves["per_class"][name], y == k, p[:, k]) for k, name in enumerate(classes)]
    for ours, truth, probability in [*pairs, (top, correct, p.max(1))]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observed, predicted = calibration.calibration_curve(truth, probability, n_bins=n_bins)
        np.testing.assert_allclose(ours["observed"], observed, **EXACT)
        np.testing.assert_allclose(ours["predicted"], predicted, **EXACT)
        assert ours["count"].sum() == len(y)
        assert ((ours["lower"] - 1e-12 <= ours["predicted"]) & (ours["predicted"] <= ours["upper"] + 1e-12)).all()
    error = (top["count"] * np.abs(top["observed"] - top["predicted"])).sum() / len(y)
    np.testing.assert_allclose(metrics.expected_calibration_error(y, p, n_bins), error, **EXACT)


def test_a_bin_holds_its_upper_edge():
    """((m-1)/M, m/M] of Guo et al.: 0.75 lies in the third of four bins."""
    curve = metrics.calibration_curve([0], [[0.75, 0.25]], ["NOR", "CVP"], n_bins=4)
    assert (curve["top_label"]["lower"], curve["top_label"]["upper"]) == (0.5, 0.75)
    assert (curve["per_class"]["CVP"]["lower"], curve["per_class"]["CVP"]["upper"]) == (0.0, 0.25)


@given(predictions(), st.data())
@settings(deadline=None)
def test_weights_are_repetitions(data, draw):
    """The bootstrap's weighted scores are those of the repeated samples."""
    y, p, classes = data
    counts = np.array(draw.draw(st.lists(st.integers(0, 3), min_size=len(y), max_size=len(y)).filter(any)))
    both = np.stack([counts, np.ones_like(counts)]).astype(float)
    weighted = bootstrap.weighted_scores(y, p, classes, both)
    for row, repeats in enumerate((counts, np.ones_like(counts))):
        scores = metrics.classification_scores(np.repeat(y, repeats), np.repeat(p, repeats, axis=0), classes)
        expected = dict(leaves(scores))
        for key, values in leaves(weighted):
            assert_same(expected[key], values[row])


def test_intervals_have_the_tree_of_the_scores():
    y, p = make(90, 3)
    scores, intervals = metrics.classification_scores(y, p, names(3)), metrics.bootstrap_intervals(y, p, names(3))
    json.dumps(intervals, allow_nan=False)
    bounds = {key: value for key, value in leaves(intervals) if key[0] != "bootstrap"}
    numbers = {key: value for key, value in leaves(scores) if isinstance(value, float)}
    assert bounds.keys() == numbers.keys()
    biased = {("expected_calibration_error",)}  # upwards, more so in resamples
    assert all(low <= numbers[key] <= high for key, (low, high) in bounds.items() if key not in biased)


def test_intervals_agree_with_scipy():
    y, p = make(800, 3)

    def accuracy(truth, predicted, axis):
        return (truth == predicted).mean(axis=axis)

    reference = scipy.stats.bootstrap(
        (y, p.argmax(1)), accuracy, paired=True, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    ours = metrics.bootstrap_intervals(y, p, names(3), n=4000)["accuracy"]
    np.testing.assert_allclose(ours, reference, atol=0.002, rtol=0)


def test_balanced_accuracies_are_those_of_the_whole_tree():
    y, _ = make(90, 3)
    patients = [f"p{i}" for i in np.random.default_rng(2).integers(12, size=90)]
    guesses = np.stack([make(90, 3, seed=seed)[1].argmax(1) for seed in (1, 2)])
    for guess, (value, bounds) in zip(guesses, bootstrap.balanced_accuracies(y, guesses, patients), strict=True):
        table = np.eye(3)[guess]
        assert value == pytest.approx(sk.balanced_accuracy_score(y, guess))
        whole = metrics.bootstrap_intervals(y, table, names(3), patients)
        np.testing.assert_allclose(bounds, whole["balanced_accuracy"])
        both = bootstrap.accuracy_intervals(y, table, names(3), patients)
        assert both == {key: whole[key] for key in ("accuracy", "balanced_accuracy")}
    ((value, bounds),) = bootstrap.balanced_accuracies(y, y[None], patients)
    assert (value, bounds) == (1.0, bootstrap.exact_interval(1.0, 12))


def test_intervals_repeat_and_do_not_depend_on_the_chunks(monkeypatch):
    y, p = make(100, 3)
    first = metrics.bootstrap_intervals(y, p, names(3), n=200, seed=7)
    monkeypatch.setattr(bootstrap, "CHUNK", 1500)
    assert metrics.bootstrap_intervals(y, p, names(3), n=200, seed=7) == first
    assert metrics.bootstrap_intervals(y, p, names(3), n=200, seed=8) != first


@pytest.mark.parametrize(
    ("function", "n", "options"),
    [
        (metrics.bootstrap_intervals, 2000, {"n": 3}),
        (metrics.roc_curves, 2000, {}),
        (metrics.calibration_curve, 2000, {}),
        (metrics.precision_recall_curves, 600, {}),
    ],
)
def test_memory_grows_with_classes_times_images(function, n, options):
    """300 classes: the bootstrap would take 60 GB if it counted each cell of the confusion matrix."""
    y, p = make(n, 300, skill=3)
    tracemalloc.start()
    function(y, p, names(300), **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 * p.nbytes


def test_intervals_are_those_of_the_confusion_matrices_of_all_resamples():
    """As computed from resampled confusion matrices of 3 classes."""
    y, p = make(100, 3)
    draws = np.random.default_rng(0).integers(100, size=(1000, 100))
    matrices = [sk.confusion_matrix(y[draw], p[draw].argmax(1), labels=[0, 1, 2]) for draw in draws]
    intervals = metrics.bootstrap_intervals(y, p, names(3))
    recalls = np.array([matrix.diagonal() / matrix.sum(1) for matrix in matrices])
    accuracy = np.array([matrix.trace() / 100 for matrix in matrices])
    percentiles = [2.5, 97.5]
    assert intervals["accuracy"] == np.percentile(accuracy, percentiles).tolist()
    np.testing.assert_allclose(intervals["balanced_accuracy"], np.percentile(recalls.mean(1), percentiles), **EXACT)
    for k, name in enumerate(names(3)):
        assert intervals["per_class"][name]["sensitivity"] == np.percentile(recalls[:, k], percentiles).tolist()
        ppv = [matrix[k, k] / matrix[:, k].sum() for matrix in matrices]
        assert intervals["per_class"][name]["ppv"] == np.percentile(ppv, percentiles).tolist()


def test_copies_of_a_patient_say_nothing_new():
    """Five copies of every image leave the intervals over patients as they are, and narrow those over images."""
    y, p = make(200, 3)
    single = metrics.bootstrap_intervals(y, p, names(3))
    copies = np.tile(y, 5), np.tile(p, (5, 1))
    patients = [f"patient {k}" for k in np.tile(np.arange(200), 5)]
    grouped = metrics.bootstrap_intervals(*copies, names(3), groups=patients)
    for key, bounds in leaves(single):
        if isinstance(bounds, list):
            np.testing.assert_allclose(dict(leaves(grouped))[key], bounds, **EXACT)
    ungrouped = metrics.bootstrap_intervals(*copies, names(3))
    ratio = np.diff(single["accuracy"]) / np.diff(ungrouped["accuracy"])
    np.testing.assert_allclose(ratio, np.sqrt(5), rtol=0.15)


def test_images_without_patient_are_patients_of_their_own():
    y, p = make(60, 2)
    alone = metrics.bootstrap_intervals(y, p, names(2))
    assert metrics.bootstrap_intervals(y, p, names(2), groups=[""] * 60) == alone
    assert metrics.bootstrap_intervals(y, p, names(2), groups=[None] * 60) == alone
    mixed = metrics.bootstrap_intervals(y, p, names(2), groups=["a"] * 30 + [""] * 30)
    assert mixed["bootstrap"]["groups"] == 31


def test_no_interval_where_too_few_patients():
    y, p = make(80, 2)
    table = np.column_stack([p * 0.9, np.full(80, 0.1)])
    rare = metrics.bootstrap_intervals([*y, 2], [*table, [0.1, 0.1, 0.8]], names(3))  # one patient of the third class
    assert rare["per_class"]["class 2"]["sensitivity"] is None
    assert rare["per_class"]["class 2"]["roc_auc"] is None
    assert rare["per_class"]["class 0"]["sensitivity"] is not None
    single = metrics.bootstrap_intervals(y, p, names(2), groups=["a"] * 80)
    assert all(value is None for key, value in leaves(single) if key[0] != "bootstrap")


@pytest.mark.parametrize(
    ("y", "p", "classes", "message"),
    [
        ([], [], ["a", "b"], "no samples"),
        ([0, 1], [[0.5, 0.5]], ["a", "b"], r"shape \(2,\) and probabilities of shape \(1, 2\)"),
        ([0.0], [[0.5, 0.5]], ["a", "b"], "float64"),
        ([2], [[0.5, 0.5]], ["a", "b"], "label 2: expected a class index from 0 to 1"),
        ([-1], [[0.5, 0.5]], ["a", "b"], "label -1"),
        ([0], [[1.0]], ["a"], "1 column"),
        ([0], [[0.5, 0.5]], ["a", "b", "c"], "2 different names"),
        ([0], [[0.5, 0.5]], ["a", "a"], "2 different names"),
        ([0, 0], [[0.5, 0.5], [2.0, -1.0]], ["a", "b"], "row 1 of the probabilities"),
        ([0], [[float("nan"), 0.5]], ["a", "b"], "row 0 of the probabilities"),
        ([0], [[3.1, 1.2]], ["a", "b"], "sum 1"),
    ],
)
def test_what_cannot_be_scored_is_named_in_one_line(y, p, classes, message):
    for function in (metrics.classification_scores, metrics.roc_curves, metrics.bootstrap_intervals):
        with pytest.raises(UserError, match=message) as caught:
            function(y, p, classes)
        assert "\n" not in str(caught.value)


def test_bad_settings():
    y, p = make(10, 2)
    with pytest.raises(UserError, match="0 bins"):
        metrics.expected_calibration_error(y, p, n_bins=0)
    with pytest.raises(UserError, match="0 resamples"):
        metrics.bootstrap_intervals(y, p, names(2), n=0)
    with pytest.raises(UserError, match="3 groups for 10 samples"):
        metrics.bootstrap_intervals(y, p, names(2), groups=["a", "b", "c"])


@given(predictions(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_the_order_of_the_images_nor_of_the_classes_matters(data, random):
    y, p, classes = data
    images, order = list(range(len(y))), list(range(len(classes)))
    random.shuffle(images)
    random.shuffle(order)
    p = p + 1e-3 * np.arange(len(classes))  # no ties, which go to the first class
    p = p / p.sum(1, keepdims=True)
    before = dict(leaves(metrics.classification_scores(y, p, classes)))
    place = np.argsort(order)
    shuffled = metrics.classification_scores(place[y][images], p[images][:, order], [classes[k] for k in order])
    for key, value in leaves(shuffled):
        if isinstance(value, int | float) and key[0] not in ("confusion_matrix", "classes"):
            assert value == pytest.approx(before[key], abs=1e-9)


@given(predictions(min_size=2))
@settings(deadline=None)
def test_the_auc_of_any_score_and_its_interval(data):
    """The value is scikit-learn's; the interval is that of `bootstrap_intervals`, whose resamples are the same."""
    y, p, classes = data
    patients = [f"p{i // 2}" for i in range(len(y))]
    auc, bounds = auc_interval(y == 0, p[:, 0], patients)
    if (y == 0).all() or (y != 0).all():
        assert (auc, bounds) == (None, None)
        return
    np.testing.assert_allclose(auc, sk.roc_auc_score(y == 0, p[:, 0]), **EXACT)
    reference = metrics.bootstrap_intervals(y, p, classes, patients)["per_class"][classes[0]]["roc_auc"]
    assert (bounds is None) == (reference is None)
    if bounds is not None:
        np.testing.assert_allclose(bounds, reference, **EXACT)
