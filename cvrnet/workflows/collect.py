"""The folds of a cross-validation joined: summary.json, figures, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.formatting import spread
from cvrnet.metrics import mean_std
from cvrnet.report.draw import draw_heads, draw_learning_curves, draw_predictions
from cvrnet.report.report_tables import difference
from cvrnet.runs.layout import HISTORY, INDEPENDENT, METRICS, RUN, SUMMARY, fold_name
from cvrnet.runs.predictions import read_predictions
from cvrnet.runs.read import read_json, read_rows
from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import score
from cvrnet.workflows.job import finish_report

_OF_ONE_SET = ("intervals", "per_source")  # of a fold; not for the mean over folds


def collect(output: Path, *, maps: bool = True) -> dict[str, Any]:
    """Join the folds of a run: summary.json, figures/, tables/ and report.html.

    Scores of each fold, their mean and standard deviation, and of all test predictions pooled. With an independent
    source, the folds' scores on it stand beside, with the drop.

    Raises:
        UserError: It is no cross-validation, or a fold is missing.
    """
    if not (output / RUN).is_file():
        raise UserError(f"{output} is not a run: it has no {RUN}")
    run = read_json(output / RUN)
    if run.get("kind") != "crossval":
        raise UserError(f"{output} is not a cross-validation")
    folders = [output / fold_name(fold) for fold in range(1, run["folds"] + 1)]
    missing = [folder.name for folder in folders if not (folder / METRICS).is_file()]
    if missing:
        raise UserError(f"{output} lacks {', '.join(missing)}; train with --only-fold, or resume the run")
    classes = run["classes"]
    metrics = [read_json(folder / METRICS) for folder in folders]
    inside = [_scores(m["test"]) for m in metrics]
    pooled = read_predictions(folders, classes, "test")
    draw_predictions(output, pooled)
    summary: dict[str, Any] = {
        "classes": classes,
        "folds": inside,
        "mean_std": mean_std(inside),
        "pooled": score(pooled),
        "test_source": run["test_source"] or None,
    }
    if all(INDEPENDENT in m for m in metrics):
        outside = [_scores(m[INDEPENDENT]) for m in metrics]
        elsewhere = read_predictions(folders, classes, INDEPENDENT)
        draw_predictions(output, elsewhere, suffix=f"_{INDEPENDENT}")
        drops = [difference(a, b) for a, b in zip(inside, outside, strict=True)]
        summary[INDEPENDENT] = {
            "folds": outside,
            "mean_std": mean_std(outside),
            "pooled": score(elsewhere),
            "drop": mean_std(drops),
            "drop_in_accuracy": mean_std([drop["accuracy"] for drop in drops]),
        }
    if heads := head_rows(inside):
        draw_heads(output, heads)
    draw_learning_curves(output, {f"Fold {k}": read_rows(f / HISTORY) for k, f in enumerate(folders, start=1)})
    write_json(output / SUMMARY, summary)
    finish_report(output, maps)
    return summary


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The papers' table (v1 Table 3): a row a fold, then mean ± standard deviation, weighted as the papers do."""

    def row(name: str, scores: Mapping[str, Any], cell: Callable[[Any], Any]) -> dict[str, Any]:
        weighted = scores["weighted"]
        return {
            "fold": name,
            **{key: cell(weighted[key]) for key in ("recall", "precision", "f1")},
            "accuracy": cell(scores["accuracy"]),
            "f1_macro": cell(scores["macro"]["f1"]),
            "auc_macro": cell(scores["macro"]["roc_auc"]),
        }

    rows = [row(str(k), scores, lambda value: value) for k, scores in enumerate(summary["folds"], start=1)]
    rows.append(row("mean", summary["mean_std"], spread))
    if INDEPENDENT in summary:
        rows.append(row(f"on {summary['test_source'] or 'split=test'}", summary[INDEPENDENT]["mean_std"], spread))
    return rows


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key not in _OF_ONE_SET}
