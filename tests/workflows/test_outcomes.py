"""Predicting an event: from manifest to report, from the command line, and what does not take such models."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import brier_score_loss, roc_auc_score

from cvrnet import Predictor
from cvrnet.errors import UserError
from cvrnet.training import TrainConfig, recipe
from cvrnet.workflows import calibrate, compare, cross_validate, evaluate, make_soup, train
from tests.conftest import PLAIN, TINY
from tests.support.hub import LocalHub

MODEL = {name: TINY[name] for name in ("model", "pretrained", "img_size")}
SETTINGS: dict[str, Any] = {**MODEL, "encoders": ("test_resnet",), "freeze": "all", "outcome": "icu_day", "horizon": 10}
OF_PATIENTS = recipe("studies", **SETTINGS, unit="patient", epochs=6)
OF_IMAGES = recipe("frozen", **SETTINGS, epochs=6, batch_size=8)
COLUMNS = ["path", "patient_id", "view", "day", "icu_day", "went_icu"]
PATIENTS = 30  # every third has the event


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, table: list[dict[str, Any]], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
    return path


def make(folder: Path, seed: int = 0) -> Path:
    """Films of patients of whom every third goes to intensive care on day 5; the films of these are bright."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    table = []
    for patient in range(PATIENTS):
        event = patient % 3 == 0
        for day in (0, 3, 5, 8) if event else (0, 2):
            name = f"images/{patient}-{day}.png"
            level = (170 if event else 60) + rng.integers(-25, 25)
            noise = np.clip(rng.normal(level, 25, (64, 64)), 0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(folder / name)
            table.append(
                {
                    "path": name,
                    "patient_id": f"p{patient}",
                    "view": ("AP", "PA")[patient % 2],
                    "day": day,
                    "icu_day": 5 if event else "",
                    "went_icu": "NY"[event],
                }
            )
    return write(folder / "manifest.csv", table)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data") / "ward")


@pytest.fixture(scope="module")
def of_patients(ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "patients"
    cross_validate(ward, run, OF_PATIENTS, n_folds=3, **PLAIN)
    return run


@pytest.fixture(scope="module")
def of_images(ward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "images"
    train(ward, run, OF_IMAGES, **PLAIN)
    return run


def test_only_films_from_before_the_event_are_used(of_patients: Path) -> None:
    run = json.loads((of_patients / "run.json").read_text())
    outcome = run["outcome"]
    numbers = {"films": 80, "patients": 30, "events": 10, "films_after": 20, "kept_films": 60, "kept_events": 10}
    assert {key: outcome[key] for key in numbers} == numbers
    assert len(outcome["late"]) == 20
    assert run["classes"] == ["no", "yes"]
    assert run["images"] == {"no": 20, "yes": 10}
    assert "left_out" not in run
    for fold in (1, 2, 3):
        for row in rows(of_patients / f"fold-{fold}" / "attention.csv"):
            assert row["path"].rpartition("-")[2] in ("0.png", "2.png", "3.png")
    checklist = (of_patients / "checklist.md").read_text()
    assert "30 patients, 10 of them with the event, prove nothing" in checklist
    assert "within 10 days" in checklist
    report = (of_patients / "report.html").read_text()
    for text in (
        "Predicting icu_day",
        "20 radiographs of 10 patients",
        "30 patients, 10 of them with the event",
        "bedside",
    ):
        assert text in report


def test_the_planted_signal_is_found_and_the_scores_are_those_of_scikit_learn(of_patients: Path) -> None:
    predicted, baselines = [], {}
    for fold in (1, 2, 3):
        predicted += [r for r in rows(of_patients / f"fold-{fold}" / "predictions.csv") if r["split"] == "test"]
        found = rows(of_patients / f"fold-{fold}" / "baselines.csv")
        baselines |= {r["path"]: r for r in found if r["split"] == "test"}
    truth = [row["label"] == "yes" for row in predicted]
    model = [float(row["prob_yes"]) for row in predicted]
    table = {row["score"]: row for row in rows(of_patients / "tables" / "outcome.csv")}
    assert list(table) == ["model", "first_film", "last_film", "films", "view_ap"]
    assert roc_auc_score(truth, model) > 0.9
    assert float(table["model"]["auc"]) == pytest.approx(roc_auc_score(truth, model))
    for key in list(table)[1:]:
        scores = [float(baselines[row["path"]][key]) for row in predicted]
        assert float(table[key]["auc"]) == pytest.approx(roc_auc_score(truth, scores))
        difference = roc_auc_score(truth, model) - roc_auc_score(truth, scores)
        assert float(table[key]["difference"]) == pytest.approx(difference)
    assert float(table["films"]["auc"]) == 0.5, "after the rule, all patients have two films"
    (calibration,) = rows(of_patients / "tables" / "outcome_calibration.csv")
    assert float(calibration["brier"]) == pytest.approx(brier_score_loss(truth, model))
    assert float(calibration["observed"]) == pytest.approx(1 / 3)
    assert float(calibration["predicted"]) == pytest.approx(np.mean(model))


def test_an_evaluation_uses_the_outcome_of_the_run(of_patients: Path, of_images: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", seed=1)
    for run, kept in ((of_patients, 30), (of_images, 60)):
        found = evaluate(str(run), other, tmp_path / run.name, **PLAIN)
        assert found["outcome"]["films_after"] == 20
        assert found["outcome"]["horizon"] == 10
        assert sum(found["images"].values()) == kept
        assert found["metrics"]["test"]["per_class"]["yes"]["roc_auc"] > 0.9
        assert len(rows(tmp_path / run.name / "predictions.csv")) == kept
        assert {row["score"] for row in rows(tmp_path / run.name / "tables" / "outcome.csv")} >= {"first_film", "films"}
        assert "Predicting icu_day" in (tmp_path / run.name / "report.html").read_text()


def test_each_film_is_a_moment_of_its_own(of_images: Path) -> None:
    predicted = {row["path"]: row for row in rows(of_images / "predictions.csv")}
    baselines = {row["path"]: row for row in rows(of_images / "baselines.csv")}
    assert predicted.keys() == baselines.keys()
    for name, row in baselines.items():
        patient, _, day = Path(name).stem.rpartition("-")
        assert row["films"] == ("1.0" if day == "0" else "2.0")
        assert row["first_film"] == predicted[f"images/{patient}-0.png"]["prob_yes"]
        assert row["last_film"] == ""
        assert row["view_ap"] == ("0.0" if int(patient) % 2 else "1.0")


def test_the_card_says_what_yes_means(of_images: Path, hub: LocalHub, cli: Callable[..., Any]) -> None:
    status, card, err = cli("push", of_images, "ada/icu", "--dry-run")
    assert status == 0, err
    known = "Where the day of the event was known, the event counts if it comes within 10 days of"
    assert rf"`yes` means an event: icu\_day. {known}" in card
    assert "the radiograph, and only radiographs from before the event were used." in card


def test_what_comes_after_the_films_makes_no_subgroups(of_images: Path) -> None:
    assert {row["column"] for row in rows(of_images / "tables" / "subgroups.csv")} == {"view", "day", "went_icu"}


def test_the_first_film_alone_is_what_the_model_says_of_it(of_patients: Path, ward: Path, tmp_path: Path) -> None:
    table = [row for row in rows(ward) if row["day"] == "0"]
    first = write(ward.parent / "first.csv", table)
    evaluate(str(of_patients / "fold-1"), first, tmp_path / "first", **PLAIN)
    alone = {row["path"]: float(row["prob_yes"]) for row in rows(tmp_path / "first" / "predictions.csv")}
    for row in rows(of_patients / "fold-1" / "baselines.csv"):
        assert float(row["first_film"]) == pytest.approx(alone[row["path"]], abs=1e-4)


def test_bad_days_are_listed_and_the_rest_goes_on(ward: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    table = rows(ward)
    table[0]["day"] = "Monday"
    for row in table:
        if row["patient_id"] == "p3":
            row["icu_day"] = "soon"
    write(ward.parent / "bad.csv", table)
    given = ("-o", tmp_path / "run", *ARGUMENTS, "--outcome", "icu_day")
    status, _, err = cli("train", ward.parent / "bad.csv", *given)
    assert status == 0, err
    lines = [
        "patient p3: icu_day 'soon' is not a number: left out",
        "bad.csv:2: images/0-0.png: day 'Monday' is not a number: left out",
    ]
    assert all(f"Warning: {line}\n" in err for line in lines)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["left_out"] == lines
    assert "which would be a leak: " in err
    status, _, err = cli("evaluate", tmp_path / "run", ward.parent / "bad.csv", "-o", tmp_path / "e", *QUIET)
    assert status == 1
    assert "2 of 31 images were left out" in err


QUIET = ["--no-audit", "--no-maps"]
ARGUMENTS = ["--model", "cvrnet", "--encoders", "test_efficientnet", "--no-pretrained", "--img-size", 32,
             "--unit", "patient", "--epochs", 1, *QUIET]  # fmt: skip


def test_columns_like_those_of_cidc_can_be_mapped(ward: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """The collection's table says yes or no, and the day of the film, but not that of the event."""
    table = [{"offset" if key == "day" else key: cell for key, cell in row.items()} for row in rows(ward)]
    write(ward.parent / "cidc.csv", table, ["offset" if name == "day" else name for name in COLUMNS])
    given = ("--columns", "day=offset", "--outcome", "went_icu")
    status, _, err = cli("train", ward.parent / "cidc.csv", "-o", tmp_path / "run", *ARGUMENTS, *given)
    assert status == 0, err
    assert "a leak cannot be excluded" in err
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())["outcome"]
    assert (outcome["yes_no"], outcome["kept_films"], outcome["kept_events"]) == (True, 80, 10)
    assert "a leak cannot be excluded" in (tmp_path / "run" / "report.html").read_text()
    given = (*given, "--until", "admission")
    status, _, err = cli("train", ward.parent / "cidc.csv", "-o", tmp_path / "first", *ARGUMENTS, *given)
    assert json.loads((tmp_path / "first" / "run.json").read_text())["outcome"]["kept_films"] == 30, err


def test_without_an_event_that_can_be_foretold_the_counts_say_why(ward: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no event can be predicted .* 0 patients have icu_day within 1 days of the admission"
    ):
        train(ward, tmp_path / "run", recipe("frozen", **{**SETTINGS, "horizon": 1}, until="admission"), **PLAIN)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"--outcome nowhere: expected a manifest column that states the event"):
        train(ward, tmp_path / "run", recipe("frozen", **{**SETTINGS, "outcome": "nowhere"}), **PLAIN)


def test_models_that_foretell_are_refused_where_labels_are_needed(of_images: Path, ward: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="the model predicts the event icu_day; calibration needs a model that predicts labels"
    ):
        calibrate(str(of_images), ward, tmp_path / "c")
    for fold in ("fold-1", "fold-2"):
        shutil.copytree(of_images, tmp_path / "folds" / fold)
    shutil.copy(of_images / "run.json", tmp_path / "folds")
    with pytest.raises(
        UserError, match="the model predicts the event icu_day; a soup needs a model that predicts labels"
    ):
        make_soup(tmp_path / "folds", tmp_path / "s")
    train(ward, tmp_path / "other", recipe("frozen", **{**SETTINGS, "horizon": 4}, epochs=1), **PLAIN)
    with pytest.raises(UserError, match="predict different events"):
        compare([str(of_images), str(tmp_path / "other")], ward, tmp_path / "both", **PLAIN)
    assert Predictor.from_pretrained(of_images).unit == "image"


def test_settings_are_checked() -> None:
    for wrong in (
        {"until": "later"},
        {"horizon": 0},
        {"horizon": float("inf")},
        {"outcome": "x", "findings": ("a", "b")},
    ):
        with pytest.raises(UserError, match=r"expected|expects"):
            TrainConfig(**wrong)
