"""The report's tables: rows of numbers for CSV files, and the columns in which the page shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cvrnet.formatting import interval, number
from cvrnet.html import Column, Table, build_table
from cvrnet.report.results import Results
from cvrnet.runs.layout import INDEPENDENT
from cvrnet.runs.predictions import PredictionTable
from cvrnet.scoring.score import RATES

Row = dict[str, Any]
Entry = tuple[str, str, Mapping[str, Any]]
"""A line of the papers' table: its name in results.csv, its name on the page, and the scores or their mean and std."""

PAPER = {
    **{f"{key}_weighted": (key.capitalize(), ("weighted", key)) for key in ("recall", "precision", "f1")},
    "accuracy": ("Accuracy", ("accuracy",)),
    **{f"{key}_macro": (key.capitalize(), ("macro", key)) for key in ("recall", "precision", "f1")},
    "auc_macro": ("AUC", ("macro", "roc_auc")),
}
"""The papers' table (v1 Table 3): column of results.csv to title and place in the scores."""
GROUPS = (("", 2), ("Support-weighted", 3), ("", 1), ("Macro", 4))
OVERALL = {
    "accuracy": ("Accuracy", ("accuracy",)),
    "balanced_accuracy": ("Balanced accuracy", ("balanced_accuracy",)),
    "macro_roc_auc": ("AUC, macro", ("macro", "roc_auc")),
    "macro_average_precision": ("Average precision, macro", ("macro", "average_precision")),
    "expected_calibration_error": ("Expected calibration error (ECE)", ("expected_calibration_error",)),
    "brier_score": ("Brier score (0 to 2)", ("brier_score",)),
    "log_loss": ("Log loss (nats)", ("log_loss",)),
}
"""Scores of the whole set: key of the CSV row to title and place in the scores."""
SETS = {"val": "validation", "test": "test", INDEPENDENT: "independent"}


def paper_entries(results: Results) -> list[Entry]:
    """The lines of the papers' table: folds, their mean, the independent source and the drop; or one line for a set."""
    source, tree = results.run.get("test_source") or "", results.results
    if results.kind == "crossval":
        entries: list[Entry] = [(f"fold {k}", f"Fold {k}", fold) for k, fold in enumerate(tree["folds"], start=1)]
        entries.append(("", "Mean", tree["mean_std"]))
        if INDEPENDENT in tree:
            entries.append((f"{source} ", f"Mean on {source}", tree[INDEPENDENT]["mean_std"]))
            entries.append(("drop ", "Drop", tree[INDEPENDENT]["drop"]))
        return entries
    drop = bool(source) and results.kind == "train"
    names = {"val": "Validation", "test": f"Test: {source}" if drop else "Test"}
    entries = [(name, names.get(name, name), scores) for name, scores in tree.items()]
    if drop and len(entries) > 1:
        entries.append(("drop", f"Drop on {source}", difference(entries[0][2], entries[-1][2])))
    return entries


def paper_rows(entries: Sequence[Entry]) -> Iterator[Row]:
    """The papers' table as numbers; a mean and its standard deviation are two rows."""
    for name, _, scores in entries:
        cells = {key: _at(scores, place) for key, (_, place) in PAPER.items()}
        if isinstance(cells["accuracy"], Mapping):
            for part in ("mean", "std"):
                yield {"row": f"{name}{part}", "images": None, **{key: cell[part] for key, cell in cells.items()}}
        else:
            yield {"row": name, "images": scores.get("n"), **cells}


def paper_table(entries: Sequence[Entry]) -> Table:
    """The papers' table as printed."""
    columns: list[Column] = [("", lambda entry: entry[1]), ("Images", lambda entry: _images(entry[2]))]
    columns += [(title, lambda entry, at=place: number(_at(entry[2], at))) for title, place in PAPER.values()]  # type: ignore[misc]
    return build_table(entries, columns, GROUPS)


def _images(scores: Mapping[str, Any]) -> str:
    """The number of images; "" for a mean over folds and for a difference."""
    n = scores.get("n")
    return number(n) if isinstance(n, int) else ""


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One set's scores less another's; None where one of the two is undefined."""

    def less(a: Any, b: Any) -> Any:
        if isinstance(a, Mapping):
            return {key: less(a[key], b[key]) for key in a}
        return None if a is None or b is None else a - b

    return {key: less(one[key], other[key]) for key in ("accuracy", "balanced_accuracy", "weighted", "macro")}


def class_rows(scores: Mapping[str, Any]) -> list[Row]:
    """Sensitivity, specificity, PPV, NPV, F1, AUC and average precision of each class, with 95 % intervals."""
    rows = []
    for name, values in scores["per_class"].items():
        row: Row = {"class": name, "images": values["support"]}
        for key in (*RATES, "f1", "roc_auc", "average_precision"):
            row |= _with_interval(key, values, scores["intervals"]["per_class"][name])
        row["exact"] = " ".join(rate for rate in RATES if f"{name}/{rate}" in scores["intervals"]["exact"])
        rows.append(row)
    return rows


def class_table(rows: Sequence[Row]) -> Table:
    """The four rates of each class as printed; a dagger marks an exact binomial interval."""
    titles = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}

    def rate(key: str, row: Row) -> str:
        return _interval(key, row) + "†" * (key in row["exact"].split())

    columns: list[Column] = [("Class", lambda row: row["class"]), ("Images", lambda row: number(row["images"]))]
    return build_table(rows, columns + [(titles[key], partial(rate, key)) for key in RATES])


def too_few_patients(rows: Sequence[Row]) -> bool:
    """Whether a rate of `class_rows` is defined but has no interval."""
    return any(row[rate] is not None and row[f"{rate}_low"] is None for row in rows for rate in RATES)


def overall_rows(scores: Mapping[str, Any]) -> list[Row]:
    """Scores of the whole set with 95 % intervals."""
    rows = []
    for key, (_, place) in OVERALL.items():
        low, high = _at(scores["intervals"], place) or (None, None)
        rows.append({"score": key, "value": _at(scores, place), "low": low, "high": high})
    return rows


def value_table(title: str, names: Mapping[str, str], rows: Sequence[Row]) -> Table:
    """Rows of one value with its interval as printed.

    Args:
        title: Heading of the values.
        names: What the first cell of a row (its key) is called in print, where not as it is.
        rows: Mappings with a name first, then ``value``, ``low`` and ``high``.
    """

    def name(row: Row) -> str:
        key = next(iter(row.values()))
        return names.get(key, key)

    return build_table(rows, [("", name), (title, lambda row: interval(row["value"], row["low"], row["high"]))])


def source_rows(results: Results) -> list[Row]:
    """Each source's images by class, accuracy and balanced accuracy with 95 % intervals, F1 and AUC, in every set."""
    rows = []
    for name, scores in results.sets.items():
        for source, values in scores["per_source"].items():
            row: Row = {"source": source, "set": name, "images": values["n"], "patients": values["patients"]}
            for key in ("accuracy", "balanced_accuracy"):
                row |= _with_interval(key, values, values["intervals"])
            row |= {"f1_macro": values["macro"]["f1"], "auc_macro": values["macro"]["roc_auc"]}
            row |= {f"images_{label}": entry["support"] for label, entry in values["per_class"].items()}
            rows.append(row)
    return rows


def source_table(rows: Sequence[Row], classes: Sequence[str]) -> Table:
    """The sources as printed."""
    return build_table(
        rows,
        [
            ("Source", lambda row: row["source"] or "(none)"),
            ("Set", lambda row: SETS[row["set"]]),
            *((f"n {name}", lambda row, key=f"images_{name}": number(row[key])) for name in classes),
            ("Patients", lambda row: number(row["patients"])),
            ("Accuracy", partial(_interval, "accuracy")),
            ("Balanced accuracy", partial(_interval, "balanced_accuracy")),
            ("AUC, macro", lambda row: number(row["auc_macro"])),
        ],
    )


def head_table(rows: Sequence[Row]) -> Table:
    """The heads of `cvrnet.scoring.head_rows` as printed; with a standard deviation where there are folds."""
    columns: list[Column] = [
        ("Head", lambda row: row["head"][0].upper() + row["head"][1:]),
        ("Accuracy", lambda row: number(row["accuracy"])),
    ]
    if rows[0]["std"] is not None:
        columns.append(("Std over folds", lambda row: number(row["std"])))
    return build_table(rows, columns)


def mistake_rows(predictions: PredictionTable) -> list[Row]:
    """Every image whose prediction is wrong, the most confident first."""
    p = predictions
    guesses = p.probabilities.argmax(1)
    rows = [
        {
            "path": p.names[i],
            "label": p.classes[p.labels[i]],
            "prediction": p.classes[guesses[i]],
            "probability": float(p.probabilities[i, guesses[i]]),
            "probability_of_label": float(p.probabilities[i, p.labels[i]]),
            "source": p.sources[i],
            "fold": p.folds[i],
        }
        for i in (guesses != p.labels).nonzero()[0].tolist()
    ]
    return sorted(rows, key=lambda row: (-row["probability"], row["path"]))


def _at(tree: Mapping[str, Any], place: Sequence[str]) -> Any:
    """What is at a place in a nested mapping."""
    value: Any = tree
    for key in place:
        value = value[key]
    return value


def _with_interval(key: str, values: Mapping[str, Any], intervals: Mapping[str, Any]) -> Row:
    low, high = intervals[key] or (None, None)
    return {key: values[key], f"{key}_low": low, f"{key}_high": high}


def _interval(key: str, row: Row) -> str:
    return interval(row[key], row[f"{key}_low"], row[f"{key}_high"])
