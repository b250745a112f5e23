"""Combine the results of a cross-validation's folds: write summary.json, figures, tables and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_json
from cvrnet.formatting import interval, spread
from cvrnet.metrics import mean_std
from cvrnet.metrics.findings import SCORES
from cvrnet.report.draw import draw_heads, draw_learning_curves, draw_predictions
from cvrnet.report.findings import finding_rows
from cvrnet.report.report_tables import difference, paper_scores
from cvrnet.runs.finding_predictions import FindingTable, table_kind
from cvrnet.runs.layout import HISTORY, INDEPENDENT, METRICS, RUN, SUMMARY
from cvrnet.runs.read import read_folds, read_json, read_rows
from cvrnet.scoring import head_rows, score
from cvrnet.training import TrainConfig, is_finished
from cvrnet.workflows.findings import MULTILABEL
from cvrnet.workflows.pages import finish_report

# Keys of metrics.json that have no mean over folds; the scores of a fold in summary.json do not have these keys.
_OF_ONE_SET = ("intervals", "per_source", "heads", "attention")


def collect(output: Path, *, maps: bool = True) -> dict[str, Any]:
    """Combine the results of a cross-validation's folds: write summary.json, figures/, tables/ and report.html.

    summary.json has the scores of each fold, their mean and standard deviation, and the scores of all test predictions
    together. Images that are in no fold are the set ``independent``. If there are such images, summary.json also has
    the scores of each fold's model on them, and the drop from the scores in the cross-validation to these scores.

    Returns:
        The content of summary.json.

    Raises:
        UserError: The folder is not a cross-validation, a fold is missing, or the training of a fold is not finished
            (see `is_finished`).
    """
    run = read_json(output / RUN)
    if run.get("kind") != "crossval":
        raise UserError(f"{output} is not a cross-validation; expected the output folder of `cvrnet crossval`")
    folders = read_folds(output, run)
    missing = [folder.name for folder in folders if not (folder / METRICS).is_file()]
    if missing:
        names = ", ".join(missing if len(missing) <= 10 else [*missing[:10], f"and {len(missing) - 10:,} more"])
        raise UserError(f"{output} lacks {names}; train with --only-fold, or resume the run")
    with damaged_files(output / RUN):
        config = TrainConfig(**{key: run["config"][key] for key in ("epochs", "patience")})
    short = [folder.name for folder in folders if not is_finished(folder, config)]
    if short:
        raise UserError(
            f"{output}: {', '.join(short)} had fewer training epochs than the run's {config.epochs}; to continue, "
            "repeat the run's command with --resume or --only-fold"
        )
    metrics = [read_json(folder / METRICS) for folder in folders]
    several = {**MULTILABEL, "findings": run["classes"]}
    summary: dict[str, Any] = several if run.get("task") == FindingTable.task else {"classes": run["classes"]}
    summary |= {**_join(output, run, metrics, "test"), "test_source": run["test_source"] or None}
    if all(INDEPENDENT in m for m in metrics):
        outside = _join(output, run, metrics, INDEPENDENT)
        drops = [difference(a, b) for a, b in zip(summary["folds"], outside["folds"], strict=True)]
        summary[INDEPENDENT] = outside | {"drop": mean_std(drops)}
        if "accuracy" in drops[0]:
            summary[INDEPENDENT]["drop_in_accuracy"] = mean_std([drop["accuracy"] for drop in drops])
    if heads := head_rows(summary["folds"]):
        draw_heads(output, heads)
    draw_learning_curves(output, {f"Fold {k}": read_rows(f / HISTORY) for k, f in enumerate(folders, start=1)})
    write_json(output / SUMMARY, summary)
    finish_report(output, maps)
    return summary


def _join(output: Path, run: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """Draw figures of all folds' predictions for a set; return each fold's scores, their mean, the pooled scores.

    ``split`` is the set: ``test`` or ``independent``. Pooled scores are the scores of all these predictions together.
    """
    pooled = table_kind(run).read(read_folds(output, run), run["classes"], split)
    draw_predictions(output, pooled, f"_{split}" if split == INDEPENDENT else "")
    folds = [{key: value for key, value in m[split].items() if key not in _OF_ONE_SET} for m in metrics]
    return {"folds": folds, "mean_std": mean_std(folds), "pooled": score(pooled)}


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the table of a cross-validation: a row for each fold or, for findings, for each finding; then the mean."""
    return _finding_rows(summary) if "findings" in summary else _paper_rows(summary)


def _paper_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a table like Table 3 of the first CVR-Net paper (arXiv 2007.11993).

    It has a row for each fold, then a row of mean ± standard deviation and, if there are independent images, such a row
    for the scores on these. Recall, precision and F1 are weighted by support.
    """
    columns = ("recall_weighted", "precision_weighted", "f1_weighted", "accuracy", "f1_macro", "auc_macro")
    found = {str(k): scores for k, scores in enumerate(summary["folds"], start=1)} | {"mean": summary["mean_std"]}
    if INDEPENDENT in summary:
        found[f"on {summary['test_source'] or 'split=test'}"] = summary[INDEPENDENT]["mean_std"]
    rows = []
    for name, scores in found.items():
        values = paper_scores(scores)
        cells = {key: spread(values[key]) if isinstance(values[key], Mapping) else values[key] for key in columns}
        rows.append({"fold": name, **{key.removesuffix("_weighted"): cell for key, cell in cells.items()}})
    return rows


def _finding_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each finding and for the mean: AUC and average precision with 95 % intervals.

    These are the scores of the test predictions of all folds together.
    """
    return [
        {"finding": row["finding"], "positives": row.get("positives")}
        | {key: interval(*(row[f"{key}{end}"] for end in ("", "_low", "_high"))) for key in SCORES[:2]}
        for row in finding_rows("test", summary["pooled"])
        if not row["source"]
    ]
