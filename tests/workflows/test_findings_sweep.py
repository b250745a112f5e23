"""Models of findings side by side, elsewhere, in groups of patients, as a soup and in 8 bits."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cvrnet.data import read_records, write_manifest
from cvrnet.errors import UserError
from cvrnet.metrics.decisions import Decisions
from cvrnet.report.finding_subgroups import finding_group_rows, finding_group_tables
from cvrnet.report.paired import paired_rows
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.workflows import benchmark, leave_one_source_out
from cvrnet.workflows.benchmark_table import benchmark_rows, brief_rows, collect_benchmark, paired_finding_rows
from cvrnet.workflows.compare_soup import compare_soup
from cvrnet.workflows.sweep import source_rows
from tests.conftest import PLAIN
from tests.support.films import CONFIG, FINDINGS, write_films

MODELS = ["cvrnet_tiny", "cvrnet_tiny:p3"]
SHORT = replace(CONFIG, epochs=1)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def table(truth: np.ndarray, probabilities: np.ndarray, patients: list[str] | None = None) -> FindingTable:
    n, c = truth.shape
    names = [f"{i}.png" for i in range(n)]
    return FindingTable(FINDINGS[:c], names, truth, probabilities, [""] * n, patients or names, [""] * n)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings-benchmark")
    data = write_films(folder / "data", 96, columns=True)
    return folder / "table", benchmark(data, folder / "table", MODELS, SHORT, n_folds=3, **PLAIN)


def test_models_are_compared_finding_by_finding(bench):
    folder, result = bench
    summaries = [json.loads((p / "summary.json").read_text()) for p in sorted(folder.glob("cvrnet_tiny*"))]
    mean = [summary["mean_std"]["macro"]["roc_auc"]["mean"] for summary in summaries]
    assert [model["mean_std"]["auc_macro"]["mean"] for model in result["models"].values()] == mean
    difference = result["models"][MODELS[1]]["difference"]["auc_macro"]
    assert difference["mean"] == pytest.approx(mean[1] - mean[0])
    assert [(row["score"], row["class"]) for row in result["paired"]] == [
        ("auc_macro", ""),
        *(("auc", name) for name in FINDINGS),
    ]
    pooled = [summary["pooled"]["per_finding"]["Left"]["roc_auc"] for summary in summaries]
    left = next(row for row in result["paired"] if row["class"] == "Left")
    assert [left["other"], left["one"]] == pytest.approx(pooled)
    assert [row["class"] for row in rows(folder / "tables/paired.csv")] == ["", *FINDINGS]
    assert (folder / "figures/paired.png").is_file()
    page = (folder / "benchmark.md").read_text(encoding="utf-8")
    assert f"| Left | {pooled[0]:.3f} | {pooled[1]:.3f}, " in page
    assert "Obuchowski 1997" in page
    assert [row["AUC of"] for row in paired_finding_rows(result)] == ["mean", *FINDINGS]
    assert {"AUC macro", "average precision macro"} <= {*brief_rows(result)[0]} & {*benchmark_rows(result)[0]}
    assert collect_benchmark(folder) == result


def test_what_no_benchmark_of_findings_has(bench, cli):
    folder, _ = bench
    options = ("-o", folder.parent / "out", "--findings", "auto", "--no-pretrained", "--img-size", "48")
    status, _, err = cli("benchmark", folder.parent / "data/manifest.csv", "--models", "cvrnet_tiny,resnet18", *options)
    assert status == 1
    assert "findings need a CVR-Net, but resnet18 is not one" in err


def test_a_source_without_a_finding_is_scored_by_the_others(tmp_path):
    records = read_records(write_films(tmp_path / "data", 96, columns=True), labelled=False)
    elsewhere = [
        replace(
            r,
            patient_id=r.source + r.patient_id,
            metadata={**r.metadata, "Rare": "0"} if r.source == "b" else r.metadata,
        )
        for r in records
    ]
    write_manifest(tmp_path / "data/apart.csv", elsewhere)
    summary = leave_one_source_out(tmp_path / "data/apart.csv", tmp_path / "out", SHORT, n_folds=3, **PLAIN)
    problem, row = source_rows(summary)
    assert "finding Rare has 0 patients" in problem["problem"]  # only the source that is left out has it
    assert problem["AUC macro on it"] == "-"
    assert row == {**row, "source left out": "b", "Rare on it": "-", "not scored on it": "Rare", "problem": ""}
    run = json.loads((tmp_path / "out/b/summary.json").read_text())
    inside, outside = run["folds"], run["independent"]["folds"]
    drops = [
        np.mean([a["per_finding"][name]["roc_auc"] - b["per_finding"][name]["roc_auc"] for name in ("Bright", "Left")])
        for a, b in zip(inside, outside, strict=True)
    ]
    assert summary["sources"]["b"]["drop"]["roc_auc"]["mean"] == pytest.approx(np.mean(drops))


def test_groups_have_scores_of_findings_that_enough_patients_have_and_lack():
    rng = np.random.default_rng(0)
    truth = (rng.random((120, 3)) < [0.5, 0.3, 0.5]).astype(float)
    truth[:60, 1] = 0  # the first group lacks Left
    truth[:15, 0] = np.nan
    every = table(truth, rng.random((120, 3)))
    members = {"F": every.rows(range(60)), "M": every.rows(range(60, 114)), "unknown": every.rows(range(114, 120))}
    found = {(row["group"], row["finding"]): row for row in finding_group_rows(members)}
    known = truth[15:60, 0]
    assert found["F", "Bright"]["roc_auc"] == pytest.approx(roc_auc_score(known, every.probabilities[15:60, 0]))
    assert found["F", "Bright"]["positives"] == int(known.sum())
    assert found["F", "Left"]["roc_auc"] is None
    assert "fewer than 10 patients" in found["F", "Left"]["too_small"]
    mean = np.mean([found["M", name]["roc_auc"] for name in ("Bright", "Rare")])  # of those that F has as well
    assert found["M", "mean of 2 findings"]["roc_auc"] == pytest.approx(mean)
    assert found["unknown", "mean of 2 findings"]["roc_auc"] is None
    shown = finding_group_tables([{"column": "sex", "on": "test", **row} for row in found.values()])["sex, on test"]
    assert shown.titles == ["AUC of", "F", "M", "unknown"]
    assert shown.rows[0] == ["Patients", "60", "54", "6"]
    assert shown.rows[2][1] == "–"


def test_the_verdict_on_a_soup_of_findings():
    rng = np.random.default_rng(1)
    truth = (rng.random((400, 2)) < 0.4).astype(float)
    truth[:40, 1] = np.nan
    good = table(truth, np.nan_to_num(truth, nan=0.5) * 0.5 + rng.random((400, 2)) * 0.6)
    bad = replace(good, probabilities=rng.random((400, 2)))
    scores, verdict = compare_soup({"fold-1": good, "fold-2": good, "soup": good}, honest=True)
    assert [row["model"] for row in scores] == ["fold-1", "fold-2", "ensemble", "soup"]
    assert scores[0]["auc_macro"] == pytest.approx(np.mean([roc_auc_score(*both) for both in _known(good)]))
    assert "the soup is not inferior" in verdict
    assert "is clearly worse" in compare_soup({"fold-1": good, "fold-2": good, "soup": bad}, honest=True)[1]
    few = [one.rows([0, 1, 2]) for one in (good, good, bad)]
    assert "too few images (" in compare_soup(dict(zip(("fold-1", "fold-2", "soup"), few, strict=True)), honest=True)[1]


def _known(found: FindingTable) -> list[tuple[np.ndarray, np.ndarray]]:
    known = ~np.isnan(found.labels)
    return [(found.labels[rows, k], found.probabilities[rows, k]) for k, rows in enumerate(known.T)]


def test_models_that_read_other_images_are_paired_by_name():
    rng = np.random.default_rng(2)
    truth = (rng.random((60, 2)) < 0.5).astype(float)
    one, other = table(truth, rng.random((60, 2))), table(truth, rng.random((60, 2)))
    whole = paired_rows({"a": one, "b": other})
    shuffled = other.rows(rng.permutation(60).tolist()).with_classes(FINDINGS[1::-1])
    assert paired_rows({"a": one, "b": shuffled}) == whole
    assert [row["images"] for row in paired_rows({"a": one.rows(range(50)), "b": shuffled})] == [50] * 3


def test_int8_answers_are_compared_finding_by_finding():
    quantize = pytest.importorskip("cvrnet.onnx.quantize")
    truth = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    p = np.array([[0.9, 0.2], [0.1, 0.7], [0.8, 0.6], [0.2, 0.1]])
    q = p - np.array([[0, 0], [0, 0], [0, 0.2], [0, 0]])
    found = quantize.finding_agreement(truth, p, q, ["Edema", "Mass"], Decisions())
    assert (found["agreement_Edema"], found["agreement_Mass"], found["agreement"]) == (1.0, 0.75, 0.875)
    assert (found["auc_before"], found["auc_after"]) == (1.0, 1.0)
    quantize.check_agreement({"images": 4, **found}, 0.8, 0.0)
    with pytest.raises(UserError, match=r"agree on 87.5% of 4 images, mean over the findings, the mean AUC goes from"):
        quantize.check_agreement({"images": 4, **found}, 0.9, 0.0)
