"""The report's panel of images and their maps."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from cvrnet.errors import UserError
from cvrnet.report import Section, write_report
from cvrnet.report.explanations import MOST_RIGHT, RIGHT, WRONG, maps_section, right_rows
from cvrnet.report.report_tables import mistake_rows
from cvrnet.report.results import read_results
from cvrnet.runs.predictions import PredictionTable
from cvrnet.training import TrainConfig
from cvrnet.workflows import finish_report
from cvrnet.workflows.crossval import cross_validate
from tests.conftest import PLAIN, TINY


@pytest.fixture(scope="module")
def crossval(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "run"
    cross_validate(
        phantoms, folder, TrainConfig(**TINY | {"encoders": ("test_resnet",), "epochs": 1}), n_folds=3, **PLAIN
    )
    return folder


def test_the_whole_report_can_be_written_again(crossval, tmp_path):
    run = shutil.copytree(crossval, tmp_path / "run")
    page, tables = run / "report.html", {path.name: path.read_bytes() for path in run.glob("tables/*.csv")}
    finish_report(run, maps=False)
    assert page.read_bytes() == (crossval / "report.html").read_bytes()
    assert {path.name: path.read_bytes() for path in run.glob("tables/*.csv")} == tables
    finish_report(str(run), further=[Section("Our notes", "<p>Read twice.</p>")])
    text = page.read_text(encoding="utf-8")
    assert all(title in text for title in ("Operating points", "Grad-CAM", "Our notes"))
    with pytest.raises(UserError, match=r"run\.json"):
        finish_report(tmp_path)


def test_each_image_is_explained_by_the_fold_that_tested_it(crossval, monkeypatch):
    asked = []
    from cvrnet.inference import Predictor

    load = Predictor.from_pretrained

    def spy(model, *args, **kwargs):
        asked.append(model.name)
        return load(model, *args, **kwargs)

    monkeypatch.setattr(Predictor, "from_pretrained", spy)
    results = read_results(crossval)
    html = maps_section(crossval).html
    rows = right_rows(results) + mistake_rows(results.predictions)[:WRONG]
    assert set(asked) == {f"fold-{row['fold']}" for row in rows}
    for row in rows:
        assert row["path"] in html
    shown = html.count("data:image/jpeg") + html.count('class="absent"')
    assert len(rows) < shown <= 2 * len(rows)


def test_right_answers_are_right_and_the_surest(crossval):
    results = read_results(crossval)
    rows = right_rows(results)
    p = results.predictions
    for name in p.classes:
        mine = [row for row in rows if row["label"] == name]
        k = p.classes.index(name)
        right = sorted(p.probabilities[(p.labels == k) & (p.guesses == k), k].tolist(), reverse=True)
        assert [row["probability"] for row in mine] == right[:RIGHT]


def test_of_many_classes_the_surest_right_answers_are_shown(crossval):
    """The panel, which takes seconds an image, does not grow with the classes."""
    results = read_results(crossval)
    classes = [f"class {k}" for k in range(40)]
    labels = np.repeat(np.arange(40), 3)
    probabilities = np.full((120, 40), 0.001)
    sure = np.linspace(0.5, 0.9, 120)
    probabilities[np.arange(120), labels] = sure
    paths = [f"{i}.png" for i in range(120)]
    table = PredictionTable(classes, paths, labels, probabilities, *([[""] * 120] * 3))
    rows = right_rows(replace(results, predictions=table))
    expected = [i for i in range(120) if i % 3 and sure[i] >= sure[102]]  # two of three, of the last six classes
    assert sorted(row["path"] for row in rows) == sorted(paths[i] for i in expected)
    assert len(rows) == MOST_RIGHT


def test_the_report_has_the_panel(crossval, cli, phantoms, tmp_path):
    page = write_report(crossval, [maps_section(crossval)]).read_text(encoding="utf-8")
    assert page.count("<h2>Where the network looked</h2>") == 1
    assert not re.search(r'(src|href)="https?:', page)
    status, _, err = cli("evaluate", crossval / "fold-1", phantoms, "-o", tmp_path / "evaluation", "--no-audit")
    assert status == 0, err
    assert "<h2>Where the network looked</h2>" in (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")


def test_without_the_images_it_says_so(crossval, tmp_path):
    run = tmp_path / "moved"
    shutil.copytree(crossval, run)
    described = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**described, "data": str(tmp_path / "nowhere" / "manifest.csv")}))
    assert "so no maps can be shown" in maps_section(run).html
