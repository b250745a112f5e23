"""Make the report's tables: rows of numbers for CSV files, and the columns that the page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvrnet.figures.style import MOST_CLASSES
from cvrnet.formatting import interval, number
from cvrnet.html import Table
from cvrnet.metrics.findings import SCORES
from cvrnet.report.head_sources import head_source_rows, head_source_table
from cvrnet.report.headline import data_name, floor_rows, without_folders
from cvrnet.report.results import SETS, Results
from cvrnet.runs.layout import INDEPENDENT
from cvrnet.runs.predictions import PredictionTable
from cvrnet.scoring import RATES, head_rows

Row = dict[str, Any]
Columns = Sequence[tuple[str, str]]  # the title of each column that is shown, and its key in the rows

AVERAGES = ("recall", "precision", "f1")
PAPER: Columns = (
    ("", "row"), ("Images", "images"),
    ("Recall", "recall_weighted"), ("Precision", "precision_weighted"), ("F1", "f1_weighted"),
    ("Accuracy", "accuracy"),
    ("Recall", "recall_macro"), ("Precision", "precision_macro"), ("F1", "f1_macro"), ("AUC", "auc_macro"),
)  # fmt: skip
PAPER_GROUPS = (("", 2), ("Support-weighted", 3), ("", 1), ("Macro", 4))
CLASSES: Columns = (
    ("Class", "class"), ("Images", "images"),
    ("Sensitivity", "sensitivity"), ("Specificity", "specificity"), ("PPV", "ppv"), ("NPV", "npv"),
)  # fmt: skip
# Scores of the whole set: name in overall.csv -> title on the page, and place in the scores.
OVERALL = {
    "accuracy": ("Accuracy", ("accuracy",)),
    "balanced_accuracy": ("Balanced accuracy", ("balanced_accuracy",)),
    "macro_roc_auc": ("AUC, macro", ("macro", "roc_auc")),
    "macro_average_precision": ("Average precision, macro", ("macro", "average_precision")),
    "expected_calibration_error": ("Expected calibration error (ECE)", ("expected_calibration_error",)),
    "brier_score": ("Brier score (0 to 2)", ("brier_score",)),
    "log_loss": ("Log loss (nats)", ("log_loss",)),
}


@dataclass(frozen=True)
class ReportTable:
    """A table of the report: the rows of its CSV file, and the part that the page shows."""

    rows: Sequence[Row]
    shown: Table


def report_tables(results: Results) -> dict[str, ReportTable]:
    """Return the tables that this run has: name of the CSV file (without .csv) -> table."""
    names = results.scores["classes"]
    classes = [(f"n {name}", f"images_{name}") for name in names] if len(names) <= MOST_CLASSES else []
    tables = {
        "floor": _table(floor_rows(results), [("", "score of"), ("Balanced accuracy", "value")]),
        "results": _paper_table(results),
        "classes": _table(class_rows(results.scores), CLASSES),
        "overall": _overall_table(results.scores),
        f"classes_{INDEPENDENT}": _table(class_rows(results.independent) if results.independent else [], CLASSES),
        "heads": _head_table(results),
        "heads_by_source": ReportTable(head_source_rows(results), head_source_table(results)),
        "sources": _source_table(results, classes),
        "mistakes": _table(mistake_rows(results.predictions), []),
    }
    return {name: table for name, table in tables.items() if table.rows}


def settings_table(results: Results) -> Table:
    """Return the settings that are needed to repeat the run, and the name and SHA-256 of its data set."""
    run = results.run
    made = {"model": run["model"]} if results.kind == "evaluate" else run["config"]
    shown = {name: without_folders(value) for name, value in made.items()}
    return Table(["Setting", "Value"], [("data", data_name(run)), ("data_sha256", run["data_sha256"]), *shown.items()])


def _table(
    rows: Sequence[Row], columns: Columns, shown: Sequence[Row] = (), groups: Sequence[tuple[str, int]] = ()
) -> ReportTable:
    """Build a table from the rows of its CSV file, and the columns (and rows, if they differ) that the page shows."""
    cells = [[cell(row, key) for _, key in columns] for row in shown or rows]
    return ReportTable(rows, Table([title for title, _ in columns], cells, groups))


def cell(row: Row, key: str) -> str:
    """Return a cell as text: a count, or a score with its interval (if there is one); † marks an exact interval."""
    if isinstance(row[key], str):
        return row[key]
    if isinstance(row[key], int):
        return number(row[key])
    low, high = (row.get(f"{key}_{end}", row.get(end)) for end in ("low", "high"))
    return interval(row[key], low, high) + "†" * (key in row.get("exact", "").split())


def _paper_table(results: Results) -> ReportTable:
    """Make a table like Table 3 of the first CVR-Net paper, with a row for each fold or set.

    Further rows have the mean over the folds, the scores on the independent source, and how much lower they are.
    """
    source, tree = results.held_back, results.results
    if results.kind == "crossval":
        names = {"": "Mean", f"{source} ": f"Mean on {source}", "drop ": "Drop"}
        found = {f"fold {k}": fold for k, fold in enumerate(tree["folds"], start=1)} | {"": tree["mean_std"]}
        if INDEPENDENT in tree:
            found |= {f"{source} ": tree[INDEPENDENT]["mean_std"], "drop ": tree[INDEPENDENT]["drop"]}
    else:
        names = {"val": "Validation", "test": "Test", INDEPENDENT: f"Test: {source}", "drop": f"Drop on {source}"}
        found = dict(tree)
        if source:
            found["drop"] = difference(tree["val"], tree[INDEPENDENT])
    rows, shown = [], []
    for name, scores in found.items():
        values = paper_scores(scores)
        # A mean over folds: one line with mean ± standard deviation on the page, two rows in the CSV file.
        spread = isinstance(values["accuracy"], Mapping)
        images = None if spread else scores.get("n")
        shown.append({"row": names.get(name, name.capitalize()), "images": "" if images is None else images, **values})
        if spread:
            for part in ("mean", "std"):
                rows.append({"row": f"{name}{part}", "images": None, **{key: v[part] for key, v in values.items()}})
        else:
            rows.append({"row": name, "images": images, **values})
    return _table(rows, PAPER, shown, PAPER_GROUPS)


def paper_scores(scores: Mapping[str, Any]) -> Row:
    """Return the scores of one row of the report's table with the columns of Table 3 in the first CVR-Net paper.

    ``scores`` are the scores of a set, or means and standard deviations over folds.
    """
    weighted, macro = scores["weighted"], scores["macro"]
    return {
        **{f"{key}_weighted": weighted[key] for key in AVERAGES},
        "accuracy": scores["accuracy"],
        **{f"{key}_macro": macro[key] for key in AVERAGES},
        "auc_macro": macro["roc_auc"],
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of one set minus the scores of another; a difference is None if either score is None.

    For findings, each difference is the mean over the findings that have an AUC in both sets.
    """

    def less(a: Any, b: Any) -> Any:
        if isinstance(a, Mapping):
            return {key: less(a[key], b[key]) for key in a}
        return None if a is None or b is None else a - b

    if "per_finding" in one:
        pairs = [(one["per_finding"][name], other["per_finding"][name]) for name in one["findings"]]
        scored = [pair for pair in pairs if all(values["roc_auc"] is not None for values in pair)]
        drops = {key: [a[key] - b[key] for a, b in scored] for key in SCORES}
        return {"macro": {key: sum(found) / len(found) if found else None for key, found in drops.items()}}
    return {key: less(one[key], other[key]) for key in ("accuracy", "balanced_accuracy", "weighted", "macro")}


def class_rows(scores: Mapping[str, Any]) -> list[Row]:
    """Return a row for each class: sensitivity, specificity, PPV, NPV, F1, AUC, average precision; 95 % intervals."""
    rows = []
    for name, values in scores["per_class"].items():
        row: Row = {"class": name, "images": values["support"]}
        for key in (*RATES, "f1", "roc_auc", "average_precision"):
            row |= with_interval(key, values[key], scores["intervals"]["per_class"][name][key])
        row["exact"] = " ".join(rate for rate in RATES if f"{name}/{rate}" in scores["intervals"]["exact"])
        rows.append(row)
    return rows


def too_few_patients(rows: Sequence[Row]) -> bool:
    """Return whether any rate in `class_rows` is defined but has no interval."""
    return any(row[rate] is not None and row[f"{rate}_low"] is None for row in rows for rate in RATES)


def _overall_table(scores: Mapping[str, Any]) -> ReportTable:
    """Make the table of the scores of the whole set, with 95 % intervals."""
    rows, shown = [], []
    for name, (title, place) in OVERALL.items():
        value, bounds = scores, scores["intervals"]
        for key in place:
            value, bounds = value[key], bounds[key]
        low, high = bounds or (None, None)
        rows.append({"score": name, "value": value, "low": low, "high": high})
        shown.append(rows[-1] | {"score": title})
    return _table(rows, [("", "score"), ("Value", "value")], shown)


def _head_table(results: Results) -> ReportTable:
    rows = head_rows(results.folds)
    columns = [("Head", "head"), ("Accuracy", "accuracy")]
    if rows and rows[0]["std"] is not None:
        columns.append(("Std over folds", "std"))
    return _table(rows, columns, [row | {"head": row["head"][0].upper() + row["head"][1:]} for row in rows])


def _source_table(results: Results, classes: Columns) -> ReportTable:
    """Make the table of the scores on each source in every set; it is empty if no image has the name of a source."""
    rows = []
    for name, scores in results.sets.items() if results.sources else ():
        for source, values in scores["per_source"].items():
            row: Row = {"source": source, "set": name, "images": values["n"], "patients": values["patients"]}
            for key in ("accuracy", "balanced_accuracy"):
                row |= with_interval(key, values[key], values["intervals"][key])
            row |= {"f1_macro": values["macro"]["f1"], "auc_macro": values["macro"]["roc_auc"]}
            row |= {f"images_{label}": entry["support"] for label, entry in values["per_class"].items()}
            rows.append(row)
    shown = [row | {"source": row["source"] or "(none)", "set": SETS[row["set"]]} for row in rows]
    scores_shown = [("Accuracy", "accuracy"), ("Balanced accuracy", "balanced_accuracy"), ("AUC, macro", "auc_macro")]
    columns = [("Source", "source"), ("Set", "set"), *classes, ("Patients", "patients"), *scores_shown]
    return _table(rows, columns, shown)


def mistake_rows(predictions: PredictionTable) -> list[Row]:
    """Return a row for every image whose prediction is wrong, the most confident first."""
    p = predictions
    rows = [p.row(i) for i in (p.guesses != p.labels).nonzero()[0].tolist()]
    return sorted(rows, key=lambda row: (-row["probability"], row["path"]))


def with_interval(key: str, value: float | None, bounds: Sequence[float] | None) -> Row:
    """Return the cells of a score and its interval: ``key``, ``key_low`` and ``key_high``."""
    low, high = bounds or (None, None)
    return {key: value, f"{key}_low": low, f"{key}_high": high}
