"""Reports: their numbers are scikit-learn's and an independent bootstrap's, their page fetches nothing."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from cvrnet.data import Record, read_records
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.report import Section, write_report
from cvrnet.report.write import SHOWN
from cvrnet.runs.predictions import PredictionTable, write_predictions
from cvrnet.training import TrainConfig
from cvrnet.workflows.collect import collect
from cvrnet.workflows.crossval import cross_validate
from cvrnet.workflows.evaluate import write_evaluation
from tests.conftest import PLAIN, TINY
from tests.support.figures import draw_nothing

CONFIG = TrainConfig(**{**TINY, "encoders": ("test_resnet",), "epochs": 1})


@pytest.fixture(autouse=True)
def _few_figures(request, monkeypatch):
    """Figures are drawn in the page of the cross-validation, and where the size of a page counts."""
    if "size" not in request.function.__name__:
        draw_nothing(monkeypatch)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """The tags, what they would fetch, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.fetched, self.words = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


def assert_alone(path):
    page = Page(path)
    assert page.fetched
    assert all(value.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for value in page.fetched)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    style = path.read_text(encoding="utf-8").partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    return page


@pytest.fixture(scope="module")
def crossval(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossval") / "run"
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)  # no test looks at the figures of a fold
        cross_validate(phantoms, folder, CONFIG, n_folds=3, test_source="site-b", **PLAIN)
    collect(folder, maps=False)
    return folder


def make(n=240, classes=("NOR", "NCP", "CVP"), present=None, patients=60, seed=0):
    """Records of ``n`` images, several a patient, and the probabilities of a model that is right half of the time."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(classes) if present is None else present, size=n)
    p = rng.dirichlet(np.ones(len(classes)), n)
    p[np.arange(n), y] += 0.7
    p /= p.sum(1, keepdims=True)
    ids = rng.integers(patients, size=n) if patients else None
    records = [
        Record(
            Path(f"/nowhere/{i}.png"),
            f"images/{i}.png",
            classes[y[i]],
            source=("a", "b")[i % 2],
            patient_id="" if ids is None else f"p{ids[i]}",
        )
        for i in range(n)
    ]
    return records, p, list(classes)


def evaluate(folder, records, p, classes, heads=None, **run):
    write_evaluation(folder, {"test": PredictionTable.from_records(records, classes, p, heads)})
    write_json(
        folder / "run.json",
        {
            "kind": "evaluate", "model": "run", "models": 1, "architecture": "cvrnet", "input_size": [3, 64, 64],
            "data": "/nowhere", "data_sha256": "0", "classes": classes,
            "images": {name: sum(r.label == name for r in records) for name in classes},
            "independent_sources": [], "seen_images": 0, "left_out": [], "versions": {"cvrnet": "0"}, **run,
        },
    )  # fmt: skip
    return write_report(folder)


def test_numbers_are_scikit_learns(tmp_path):
    records, p, classes = make()
    evaluate(tmp_path, records, p, classes)
    written = rows(tmp_path / "predictions.csv")
    y, guess = [row["label"] for row in written], [row["prediction"] for row in written]
    (result,) = rows(tmp_path / "tables/results.csv")
    for average in ("weighted", "macro"):
        found = sk.precision_recall_fscore_support(y, guess, average=average)
        for name, value in zip(("precision", "recall", "f1"), found, strict=False):
            assert float(result[f"{name}_{average}"]) == pytest.approx(value, abs=1e-12)
    assert float(result["accuracy"]) == pytest.approx(sk.accuracy_score(y, guess), abs=1e-12)
    for row in rows(tmp_path / "tables/classes.csv"):
        truth, said = np.array(y) == row["class"], np.array(guess) == row["class"]
        chances = [float(r[f"prob_{row['class']}"]) for r in written]
        expected = {
            "sensitivity": sk.recall_score(truth, said),
            "specificity": sk.recall_score(~truth, ~said),
            "ppv": sk.precision_score(truth, said),
            "npv": sk.precision_score(~truth, ~said),
            "roc_auc": sk.roc_auc_score(truth, chances),
            "average_precision": sk.average_precision_score(truth, chances),
        }
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-12)
        curve = [r for r in rows(tmp_path / "figures/roc.csv") if r["class"] == row["class"]]
        area = sk.auc([float(r["fpr"]) for r in curve], [float(r["tpr"]) for r in curve])
        assert area == pytest.approx(expected["roc_auc"], abs=1e-12)
    matrix = sk.confusion_matrix(y, guess, labels=classes)
    for row in rows(tmp_path / "figures/confusion_matrix.csv"):
        actual = classes.index(row["actual"])
        assert int(row["count"]) == matrix[actual, classes.index(row["predicted"])]
        assert float(row["percent"]) == pytest.approx(100 * int(row["count"]) / matrix[actual].sum())
    for row in rows(tmp_path / "tables/sources.csv"):
        inside = [i for i, r in enumerate(written) if r["source"] == row["source"]]
        part = [y[i] for i in inside], [guess[i] for i in inside]
        assert float(row["accuracy"]) == pytest.approx(sk.accuracy_score(*part), abs=1e-12)
        assert float(row["balanced_accuracy"]) == pytest.approx(sk.balanced_accuracy_score(*part), abs=1e-12)


def test_intervals_are_those_of_an_independent_bootstrap(tmp_path):
    records, p, classes = make()
    evaluate(tmp_path, records, p, classes)
    groups: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault(record.patient_id, []).append(i)
    y, guess = np.array([classes.index(r.label) for r in records]), p.argmax(1)
    rng, names = np.random.default_rng(99), sorted(groups)
    draws: dict[str, list[float]] = {"sensitivity": [], "ppv": [], "accuracy": []}
    for _ in range(3000):
        drawn = np.concatenate([groups[name] for name in rng.choice(names, len(names))])
        a, b = y[drawn], guess[drawn]
        draws["sensitivity"].append(np.mean(b[a == 0] == 0))
        draws["ppv"].append(np.mean(a[b == 0] == 0))
        draws["accuracy"].append(np.mean(a == b))
    first = rows(tmp_path / "tables/classes.csv")[0]
    accuracy = next(row for row in rows(tmp_path / "tables/overall.csv") if row["score"] == "accuracy")
    for name, low, high in [
        *((name, first[f"{name}_low"], first[f"{name}_high"]) for name in ("sensitivity", "ppv")),
        ("accuracy", accuracy["low"], accuracy["high"]),
    ]:
        np.testing.assert_allclose([float(low), float(high)], np.percentile(draws[name], [2.5, 97.5]), atol=0.015)


def test_where_there_is_no_error_the_interval_is_exact(tmp_path):
    records, p, classes = make()
    p = np.eye(3)[[classes.index(r.label) for r in records]] * 0.9 + 0.1 / 3
    page = Page(evaluate(tmp_path, records, p, classes))
    for row in rows(tmp_path / "tables/classes.csv"):
        n = len({r.patient_id for r in records if r.label == row["class"]})
        exact = binomtest(n, n).proportion_ci(0.95, method="exact")
        assert [float(row[f"sensitivity_{end}"]) for end in ("low", "high")] == pytest.approx([exact.low, 1])
        assert "sensitivity" in row["exact"].split()
    assert "†" in page.text
    assert "All 240 predictions are correct." in page.text


def test_page_of_a_cross_validation(crossval):
    page = assert_alone(crossval / "report.html")
    summary = json.loads((crossval / "summary.json").read_text())
    for words in (
        "Research software, not a medical device", "Independent source: site-b", "Mean on site-b", "Drop",
        "Support-weighted", "Macro", "Each class", "Calibration", "Effect of averaging the heads", "Learning curves",
        "Most confident mistakes", "The independent source",
    ):  # fmt: skip
        assert words in page.text
    mean = summary["mean_std"]["weighted"]["precision"]
    assert f"{mean['mean']:.3f} ± {mean['std']:.3f}" in page.text
    table = {row["row"]: row for row in rows(crossval / "tables/results.csv")}
    assert list(table) == [
        "fold 1", "fold 2", "fold 3", "mean", "std", "site-b mean", "site-b std", "drop mean", "drop std",
    ]  # fmt: skip
    drop = [float(table[f"{name}mean"]["f1_macro"]) for name in ("", "site-b ", "drop ")]
    assert drop[0] - drop[1] == pytest.approx(drop[2], abs=1e-12)
    figures = {path.name for path in (crossval / "figures").iterdir()}
    names = {"confusion_matrix", "roc", "precision_recall", "calibration", "decision_curves"}
    names |= {f"{name}_independent" for name in names} | {"heads", "learning_curves", "risk_coverage"}
    assert figures == {f"{name}{suffix}" for name in names for suffix in (".png", ".csv")}
    assert sum(value.startswith("data:image/jpeg") for value in page.fetched) == min(
        SHOWN, len(rows(crossval / "tables/mistakes.csv"))
    )


def test_heads_stand_beside_the_average(crossval):
    folds = [json.loads((crossval / f"fold-{k}/metrics.json").read_text())["test"] for k in (1, 2, 3)]
    table = {row["head"]: row for row in rows(crossval / "tables/heads.csv")}
    for name in folds[0]["head_accuracy"]:
        values = [fold["head_accuracy"][name] for fold in folds]
        assert float(table[name]["accuracy"]) == pytest.approx(np.mean(values))
        assert float(table[name]["std"]) == pytest.approx(np.std(values))
    assert float(table["average (the model)"]["accuracy"]) == pytest.approx(np.mean([f["accuracy"] for f in folds]))
    every = [value for fold in folds for value in fold["head_accuracy"].values()]
    assert float(table["mean of the heads"]["accuracy"]) == pytest.approx(np.mean(every))


def test_heads_at_home_and_abroad(tmp_path):
    """Balanced accuracies are scikit-learn's, on the images that the row names, and only where it makes sense."""
    records, p, classes = make(n=600)
    few = [i for i, r in enumerate(records) if r.source == "b" and r.label == "NOR"]
    kept = [i for i in range(len(records)) if i not in few[5:]]  # fewer than ten patients
    records, p = [records[i] for i in kept], p[kept]
    heads = np.random.default_rng(1).dirichlet(np.ones(3), (3, len(records)))
    heads[1] += p
    page = Page(evaluate(tmp_path, records, p, classes, heads / heads.sum(-1, keepdims=True)))
    table, written = rows(tmp_path / "tables/heads_by_source.csv"), rows(tmp_path / "predictions.csv")
    places = {"": "NOR|NCP|CVP", "a": "NOR|NCP|CVP", "b": "NCP|CVP"}
    assert {(row["source"], row["classes"]) for row in table} == {*places.items()}
    assert [row["head"] for row in table[:4]] == ["P1", "P2", "P3", "average"]
    for row in table:
        inside = [w for w in written if row["source"] in ("", w["source"]) and w["label"] in row["classes"].split("|")]
        guess = "prediction" if row["head"] == "average" else f"prediction_{row['head']}"
        hits = {name: [w[guess] == name for w in inside if w["label"] == name] for name in row["classes"].split("|")}
        value = np.mean([np.mean(hit) for hit in hits.values()])
        assert float(row["balanced_accuracy"]) == pytest.approx(value, abs=1e-12)
        assert float(row["low"]) < value < float(row["high"])
        assert int(row["images"]) == len(inside)
    assert "Within b (NCP, CVP)" in page.text

    text = Page(evaluate(tmp_path, records, p, classes, heads, independent_sources=["a", "b"])).text
    assert "a, independent (NOR, NCP, CVP)" in text
    assert "Within" not in text
    for alone in (heads[:1], None):  # one head, or none, has nothing to be compared with
        assert "Heads by source" not in Page(evaluate(tmp_path, records, p, classes, alone)).text
    unnamed = [replace(r, source="") for r in records]
    assert "Heads by source" not in Page(evaluate(tmp_path, unnamed, p, classes, heads)).text


def test_the_audit_speaks_in_the_report(crossval, tmp_path):
    run = shutil.copytree(crossval, tmp_path / "run")
    floor = {"balanced_accuracy": 0.61, "balanced_accuracy_low": 0.5, "balanced_accuracy_high": 0.7}
    findings = [
        {"code": "label-source", "severity": "severe", "sentence": "Class & source are tied.", "figures": {}},
        {"code": "view", "severity": "warning", "sentence": "Look at it.", "figures": {}},
        {"code": "floor", "severity": "note", "sentence": "x", "figures": floor},
    ]
    assert "The data set was not audited" in Page(run / "report.html").text
    write_json(run / "audit.json", {"findings": findings})
    text = Page(write_report(run)).text
    assert "Class & source are tied." in text
    assert "Look at it." not in text
    assert "The floor 0.610 (0.500–0.700)" in text
    values = {row["score of"]: float(row["value"]) for row in rows(run / "tables/floor.csv")}
    pooled = json.loads((run / "summary.json").read_text())["pooled"]
    assert values["The model on the test images"] == pooled["balanced_accuracy"]
    assert values.keys() == {"The model on the test images", "The model on site-b", "The floor"}


def test_page_of_a_training(run, tmp_path):
    page = assert_alone(run / "report.html")
    assert "Independent source: site-b" in page.text
    assert [row["row"] for row in rows(run / "tables/results.csv")] == ["val", "independent", "drop"]
    assert {row["set"] for row in rows(run / "tables/sources.csv")} == {"val", "independent"}
    further = [Section("Where it <looks>", "<p>at the lungs</p>", {"maps": [{"image": "a.png"}]})]
    copy = shutil.copytree(run, tmp_path / "run")
    text = Page(write_report(copy, further)).text
    assert text.index("Where it <looks>") < text.index("Learning curves")
    assert rows(copy / "tables/maps.csv") == [{"image": "a.png"}]


def test_images_that_are_gone_leave_their_paths(crossval, phantoms, tmp_path):
    run = shutil.copytree(crossval, tmp_path / "run")
    description = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", description | {"data": str(tmp_path / "gone" / "manifest.csv")})
    collect(run)
    page = Page(run / "report.html")
    wrong = rows(run / "tables/mistakes.csv")
    assert wrong
    assert "(they were moved, or are on another machine), so only their paths are shown" in page.text
    assert all(row["path"] in page.text for row in wrong[:SHOWN])
    assert not any(value.startswith("data:image/jpeg") for value in page.fetched)
    broken = shutil.copytree(phantoms.parent, tmp_path / "broken")
    (broken / wrong[0]["path"]).write_text("no image")
    write_json(run / "run.json", description | {"data": str(broken / phantoms.name)})
    text = Page(write_report(run)).text
    assert text.count("image cannot be read") == 1
    assert "so only their paths are" not in text


HOSTILE = "<script>alert('x')</script>&\"$\\frac_"


def test_names_are_text(tmp_path):
    records, p, _ = make(classes=("NOR", "NCP", HOSTILE))
    records = [replace(r, name=f"{r.name}{HOSTILE}", source=f"{r.source}{HOSTILE}") for r in records]
    page = assert_alone(
        evaluate(tmp_path, records, p, ["NOR", "NCP", HOSTILE], model=HOSTILE, independent_sources=[HOSTILE])
    )
    assert HOSTILE in page.text
    assert f"a{HOSTILE}" in page.text
    assert "<script" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "case",
    [
        {"classes": ("NOR", "CVP")},
        {"present": [0, 2]},
        {"present": [1]},
        {"patients": 0},
        {"n": 1},
    ],
    ids=["two classes", "a class absent", "one class present", "no patient ids", "one image"],
)
def test_reports_of_odd_sets(tmp_path, case):
    records, p, classes = make(**case)
    page = assert_alone(evaluate(tmp_path, records, p, classes))
    assert "nan" not in page.text.lower().split()
    if case.get("patients") == 0:
        assert "each image counts as a separate patient" in page.text
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["test"]["patients"] == len(records)
    assert ("The data set does not say" in page.text) is False


def test_without_sources_and_with_a_model_of_unknown_training(tmp_path):
    records, p, classes = make()
    records = [replace(r, source="") for r in records]
    text = Page(evaluate(tmp_path, records, p, classes, independent_sources=None)).text
    assert "The data set does not name the sources of its images." in text
    assert "Independent source: not known" in text


def test_a_report_of_many_classes_is_of_bounded_size(tmp_path):
    """Figures do not grow with the classes, tables by a row a class."""
    records, p, classes = make(n=160, classes=[f"finding {k}" for k in range(24)])
    page = evaluate(tmp_path, records, p, classes).read_text(encoding="utf-8")
    assert len(page) < 1_500_000
    assert "(24 classes)" in page
    assert "n finding 7" not in page, "a column for each class in the table of sources"
    assert "images_finding 7" in (tmp_path / "tables/sources.csv").read_text(encoding="utf-8")


def test_predictions_are_read_as_they_were_written(tmp_path):
    records, p, classes = make(n=30)
    records[3] = replace(records[3], name='a "b",\nc.png', patient_id="", source="")
    heads = np.random.default_rng(0).dirichlet(np.ones(3), (2, 30))
    written = PredictionTable.from_records(records, classes, p, heads)
    write_predictions(tmp_path, {"val": written.of_source("b"), "test": written})
    found = PredictionTable.read([tmp_path], classes, "test")
    np.testing.assert_array_equal(found.probabilities, p)
    np.testing.assert_array_equal(found.labels, written.labels)
    np.testing.assert_array_equal(found.heads, heads.argmax(-1))
    for field in ("classes", "names", "sources", "patients", "folds", "groups"):
        assert getattr(found, field) == getattr(written, field)
    assert found.groups[3] not in [r.patient_id for r in records]  # a patient of its own
    assert PredictionTable.read([tmp_path], classes, "val").names == [r.name for r in records if r.source == "b"]
    twice = PredictionTable.read([tmp_path, tmp_path], classes, "test")
    assert twice.folds == ["1"] * 30 + ["2"] * 30
    assert len(set(twice.groups)) == len(set(found.groups))


def test_no_run(tmp_path, run):
    with pytest.raises(UserError, match=r"is not a finished run: it has no run\.json"):
        write_report(tmp_path)
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "predictions.csv").write_text("path\nx\n")
    with pytest.raises(UserError, match=r"predictions\.csv is damaged: it has no column label, split"):
        write_report(copy)


def test_evaluate_an_ensemble(cli, crossval, phantoms, tmp_path):
    status, out, err = cli("evaluate", crossval, phantoms, "-o", tmp_path / "e", "--no-audit")
    assert status == 0
    assert out.splitlines()[0].split() == [
        "set", "images", "recall", "precision", "f1", "accuracy", "balanced_accuracy", "f1_macro", "auc_macro",
    ]  # fmt: skip
    assert str(tmp_path / "e" / "report.html") in err
    page = assert_alone(tmp_path / "e" / "report.html")
    run = json.loads((tmp_path / "e" / "run.json").read_text())
    split = rows(crossval / "split.csv")
    inside = [row for row in split if row["fold"] != "independent"]
    assert run["models"] == 3
    assert run["independent_sources"] == ["site-b"]
    assert run["seen_images"] == len(inside)
    sentence = f"{len(inside)} of the images, or their patients, were used to train or validate"
    assert f"{sentence} this model." in page.text
    assert f"severe: {sentence} {crossval}. " in err
    y, guess = zip(*((r["label"], r["prediction"]) for r in rows(tmp_path / "e" / "predictions.csv")), strict=True)
    assert float(out.splitlines()[1].split()[3]) == pytest.approx(
        sk.precision_score(y, guess, average="weighted", zero_division=0), abs=1e-4
    )


def test_evaluate_a_fold_on_its_own_images(cli, crossval, phantoms, tmp_path):
    records = {r.name: r for r in read_records(phantoms)}
    lines = ["path,label"]
    lines += [f"{r['path']},{records[r['path']].label}" for r in rows(crossval / "split.csv") if r["fold"] == "2"]
    manifest = phantoms.parent / "fold-2.csv"
    manifest.write_text("\n".join(lines) + "\n")
    assert cli("evaluate", crossval / "fold-2", manifest, "-o", tmp_path / "e", "--no-audit")[0] == 0
    run = json.loads((tmp_path / "e" / "run.json").read_text())
    assert (run["seen_images"], run["independent_sources"], run["models"]) == (0, [], 1)


def test_another_image_of_a_patient_that_was_trained_on(cli, crossval, phantoms, tmp_path):
    trained = next(r for r in rows(crossval / "split.csv") if r["fold"] == "3")
    shutil.copy(phantoms.parent / trained["path"], tmp_path / "another.png")
    columns = ("label", "source", "patient_id")
    (tmp_path / "manifest.csv").write_text(
        f"path,{','.join(columns)}\nanother.png,{','.join(trained[column] for column in columns)}\n"
    )
    status, _, err = cli("evaluate", crossval / "fold-2", tmp_path / "manifest.csv", "-o", tmp_path / "e", "--no-audit")
    assert status == 0
    assert "severe: 1 of the images" in err


def test_an_evaluation_does_not_spoil_a_run(cli, crossval, run, phantoms):
    for kind, folder in (("crossval", crossval), ("train", run)):
        before = (folder / "run.json").read_bytes()
        status, _, err = cli("evaluate", run, phantoms, "-o", folder, "--overwrite", "--no-audit")
        assert (status, err) == (
            1,
            f"Error: {folder} holds a run of another kind ({kind}, not evaluate); choose another folder\n",
        )
        assert (folder / "run.json").read_bytes() == before


def test_the_checklist_fills_in_what_the_run_knows(crossval, run):
    """A figure of the run stands in it; whatever the run cannot know is left to the author, and every item is there."""
    text = (crossval / "checklist.md").read_text(encoding="utf-8")
    summary = json.loads((crossval / "summary.json").read_text())
    assert f"accuracy {summary['pooled']['accuracy']:.3f} (" in text
    assert "| Ethics | 17 | The author must state: " in text
    assert "held back: site-b" in text
    assert "Initial weights: random." in text
    numbered = {
        int(n) for row in text.splitlines() for n in re.findall(r"\d+", row.split("|")[2] if "|" in row else "")
    }
    assert numbered >= set(range(1, 28))  # the items of TRIPOD+AI
    page = Page(crossval / "report.html")
    assert "Checklist for a paper" in page.text
    assert "The author must state: the approval" in page.text
    assert "adam, learning rate" in (run / "checklist.md").read_text(encoding="utf-8")
