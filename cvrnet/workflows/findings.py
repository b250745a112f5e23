"""The steps of a job whose images may have several findings, where they differ from those of a single label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import Record
from cvrnet.data.findings import finding_names, finding_truth, label_findings
from cvrnet.errors import UserError
from cvrnet.files import write_json
from cvrnet.formatting import interval
from cvrnet.metrics import mean_std
from cvrnet.metrics.findings import SCORES, finding_rankings, finding_scores
from cvrnet.report.draw import draw_learning_curves
from cvrnet.report.findings import finding_rows
from cvrnet.runs.finding_predictions import FindingTable, read_finding_predictions, write_finding_predictions
from cvrnet.runs.layout import HISTORY, INDEPENDENT, METRICS, SUMMARY
from cvrnet.runs.read import read_json, read_rows
from cvrnet.training import TrainConfig

MULTILABEL = {"task": "multilabel"}  #: in run.json
_OF_ONE_SET = ("intervals", "per_source")  # left out of summary.json's folds: they have no mean over folds


def with_findings(
    records: Sequence[Record], config: TrainConfig, classes: Sequence[str] | None, say: Callable[[str], object]
) -> tuple[list[Record], TrainConfig]:
    """The images with their findings as labels, and the config with the names of the findings.

    Raises:
        DataError: A cell of a finding has a value that is not known.
        UserError: The data set has no such findings, or no image has one of them, or none lacks it.
    """
    if classes is not None:
        raise UserError("--classes orders the classes of single labels; --findings A,B names and orders findings")
    names, few = finding_names(records, config.findings)
    if few:
        say(f"Left out, because fewer than 5 patients have it or lack it: {', '.join(few)}")
    truth = finding_truth(records, names, config.uncertain)
    refuse_one_sided(truth, names, "no image")
    counts = ", ".join(f"{name} {int((column == 1).sum()):,}" for name, column in zip(names, truth.T, strict=True))
    say(f"Findings (images that have it): {counts}")
    if unknown := int(np.isnan(truth).all(1).sum()):
        say(f"{unknown:,} images have no finding that is known: they are neither learnt nor scored")
    return label_findings(records, names, truth), replace(config, findings=tuple(names))


def refuse_one_sided(truth: np.ndarray, names: Sequence[str], which: str) -> None:
    """UserError if one of the findings is present in none of the images, or in all that are known."""
    for name, column in zip(names, truth.T, strict=True):
        for value, verb in ((1, "has"), (0, "is known to lack")):
            if not (column == value).any():
                raise UserError(f"{which} {verb} {name}; leave this finding out (--findings names those to learn)")


def refuse_missing_findings(records: Sequence[Record], config: TrainConfig) -> None:
    """UserError if the training images do not show a finding, or do not show how images without it look."""
    refuse_one_sided(finding_truth(records, config.findings, config.uncertain), config.findings, "no training image")


def write_finding_evaluation(folder: Path, sets: Mapping[str, FindingTable]) -> dict[str, Any]:
    """Write metrics.json and predictions.csv for one or more sets of images.

    Returns:
        The content of metrics.json: the scores of each set (see `score_findings`).
    """
    metrics = {name: score_findings(table) for name, table in sets.items()}
    write_finding_predictions(folder, sets)
    write_json(folder / METRICS, metrics)
    return metrics


def score_findings(table: FindingTable) -> dict[str, Any]:
    """The scores of `finding_scores`; ``per_source`` has them by source, ``heads`` each head's AUC.

    The AUC of a head is the mean over the findings.
    """
    scores = finding_scores(table.truth, table.probabilities, table.findings, table.groups)
    named = sorted({*table.sources} - {""})
    scores["per_source"] = {}
    for source in named if len(named) > 1 else ():
        part = table.rows([i for i, name in enumerate(table.sources) if name == source])
        scores["per_source"][source] = finding_scores(part.truth, part.probabilities, part.findings, part.groups)
    if table.heads is not None and len(table.heads) > 1:
        rankings = [finding_rankings(table.truth, head) for head in table.heads]
        scores["heads"] = {
            f"P{i}": float(found.mean()) if found.size else None for i, found in enumerate(rankings, start=1)
        }
    return scores


def collect_findings(output: Path, run: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """Join the folds of a cross-validation: write summary.json; returns its content."""
    metrics = [read_json(folder / METRICS) for folder in folders]
    summary = {**MULTILABEL, "findings": run["classes"], **_join(folders, metrics, "test")}
    summary["test_source"] = run["test_source"] or None
    if all(INDEPENDENT in m for m in metrics):
        summary[INDEPENDENT] = _join(folders, metrics, INDEPENDENT)
    draw_learning_curves(output, {f"Fold {k}": read_rows(f / HISTORY) for k, f in enumerate(folders, start=1)})
    write_json(output / SUMMARY, summary)
    return summary


def _join(folders: Sequence[Path], metrics: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """The scores of each fold on a set, their mean, and those of all predictions together."""
    pooled = read_finding_predictions(folders, metrics[0][split]["findings"], split)
    folds = [{key: value for key, value in m[split].items() if key not in _OF_ONE_SET} for m in metrics]
    return {"folds": folds, "mean_std": mean_std(folds), "pooled": score_findings(pooled)}


def summary_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of a cross-validation: a row for each finding and for their mean, over all folds."""
    return [
        {"finding": row["finding"], "positives": row.get("positives")}
        | {key: interval(*(row[f"{key}{end}"] for end in ("", "_low", "_high"))) for key in SCORES[:2]}
        for row in finding_rows("test", summary["pooled"])
        if not row["source"]
    ]
