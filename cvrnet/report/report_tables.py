"""The report's tables: rows of numbers for CSV files, and the same as a paper prints them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cvrnet.runs.layout import INDEPENDENT
from cvrnet.runs.predictions import Predictions
from cvrnet.scoring.score import RATES

Row = dict[str, Any]
AVERAGES = ("recall", "precision", "f1")
OVERALL = {
    "accuracy": ("Accuracy", ("accuracy",)),
    "balanced_accuracy": ("Balanced accuracy", ("balanced_accuracy",)),
    "macro_roc_auc": ("AUC, macro", ("macro", "roc_auc")),
    "macro_average_precision": ("Average precision, macro", ("macro", "average_precision")),
    "expected_calibration_error": ("Expected calibration error (ECE)", ("expected_calibration_error",)),
    "brier_score": ("Brier score (0 to 2)", ("brier_score",)),
    "log_loss": ("Log loss (nats)", ("log_loss",)),
}
"""Scores of the whole set: key of the CSV row to name and place in the scores."""
SETS = {"val": "validation", "test": "test", INDEPENDENT: "independent"}
PER_CLASS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV"}


def paper_rows(results: Mapping[str, Any], drop: bool = False) -> list[Row]:
    """The papers' table as numbers, from summary.json: fold rows, their mean and std, the independent source, the drop.

    From metrics.json: a row a set, and with ``drop`` that from the first set to the last.
    """
    if "mean_std" not in results:
        rows = [_paper_row(name, scores) for name, scores in results.items()]
        if drop and len(rows) > 1:
            first, *_, last = results.values()
            rows.append(_paper_row("drop", difference(first, last)))
        return rows
    rows = [_paper_row(f"fold {k}", scores) for k, scores in enumerate(results["folds"], start=1)]
    rows += _mean_and_std("", results["mean_std"])
    if INDEPENDENT in results:
        rows += _mean_and_std(f"{results['test_source']} ", results[INDEPENDENT]["mean_std"])
        rows += _mean_and_std("drop ", results[INDEPENDENT]["drop"])
    return rows


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One set's scores less another's; None where one of the two is undefined."""

    def less(a: Any, b: Any) -> Any:
        if isinstance(a, Mapping):
            return {key: less(a[key], b[key]) for key in a}
        return None if a is None or b is None else a - b

    return {key: less(one[key], other[key]) for key in ("accuracy", "balanced_accuracy", "weighted", "macro")}


def _paper_row(name: str, scores: Mapping[str, Any]) -> Row:
    weighted, macro = scores["weighted"], scores["macro"]
    return {
        "row": name,
        "images": scores.get("n"),
        **{f"{key}_weighted": weighted[key] for key in AVERAGES},
        "accuracy": scores["accuracy"],
        **{f"{key}_macro": macro[key] for key in AVERAGES},
        "auc_macro": macro["roc_auc"],
    }


def _mean_and_std(prefix: str, tree: Mapping[str, Any]) -> Iterator[Row]:
    for part in ("mean", "std"):
        row = _paper_row(f"{prefix}{part}", _part(tree, part))
        row["images"] = None
        yield row


def _part(tree: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {key: value[part] if part in value else _part(value, part) for key, value in tree.items()}


def shown_paper_rows(rows: Sequence[Row], names: Mapping[str, str]) -> list[Row]:
    """The papers' table as printed: mean and std rows become one, numbers have three decimals.

    Args:
        rows: From `paper_rows`.
        names: What rows are called in print, where not as they are.
    """
    shown: list[Row] = []
    for row in rows:
        name = str(row["row"])
        cells = [number(row[key]) for key in list(row)[2:]]
        if name.endswith("std"):
            last = shown[-1]
            for key, cell in zip(list(last)[2:], cells, strict=True):
                last[key] = last[key] if cell == "–" else f"{last[key]} ± {cell}"
            continue
        heads = ("Recall", "Precision", "F1", "Accuracy", "Recall ", "Precision ", "F1 ", "AUC ")
        images = "" if row["images"] is None else f"{row['images']:,}"
        shown.append({"": names.get(name, name), "Images": images, **dict(zip(heads, cells, strict=True))})
    return shown


def class_rows(scores: Mapping[str, Any]) -> list[Row]:
    """Sensitivity, specificity, PPV, NPV, F1, AUC and average precision of each class, with 95 % intervals."""
    rows = []
    for name, values in scores["per_class"].items():
        row: Row = {"class": name, "images": values["support"]}
        for key in (*RATES, "f1", "roc_auc", "average_precision"):
            low, high = scores["intervals"]["per_class"][name][key] or (None, None)
            row |= {key: values[key], f"{key}_low": low, f"{key}_high": high}
        row["exact"] = " ".join(rate for rate in RATES if f"{name}/{rate}" in scores["intervals"]["exact"])
        rows.append(row)
    return rows


def shown_class_rows(rows: Sequence[Row]) -> list[Row]:
    """The four rates of each class as printed; an exact binomial interval has a dagger."""
    shown = []
    for row in rows:
        cells = {
            title: interval(row[key], row[f"{key}_low"], row[f"{key}_high"]) + "†" * (key in row["exact"].split())
            for key, title in PER_CLASS.items()
        }
        shown.append({"Class": row["class"], "Images": f"{row['images']:,}", **cells})
    return shown


def overall_rows(scores: Mapping[str, Any]) -> list[Row]:
    """Scores of the whole set with 95 % intervals."""
    rows = []
    for key, (_, place) in OVERALL.items():
        value, spread = scores, scores["intervals"]
        for part in place:
            value, spread = value[part], spread[part]
        low, high = spread or (None, None)
        rows.append({"score": key, "value": value, "low": low, "high": high})
    return rows


def source_rows(name: str, scores: Mapping[str, Any]) -> list[Row]:
    """For one set, each source's images by class, accuracy and balanced accuracy with 95 % intervals, F1 and AUC."""
    rows = []
    for source, values in scores["per_source"].items():
        row: Row = {"source": source, "set": name, "images": values["n"], "patients": values["patients"]}
        for key in ("accuracy", "balanced_accuracy"):
            low, high = values["intervals"][key] or (None, None)
            row |= {key: values[key], f"{key}_low": low, f"{key}_high": high}
        row |= {"f1_macro": values["macro"]["f1"], "auc_macro": values["macro"]["roc_auc"]}
        row |= {f"images_{label}": entry["support"] for label, entry in values["per_class"].items()}
        rows.append(row)
    return rows


def shown_source_rows(rows: Sequence[Row], classes: Sequence[str]) -> list[Row]:
    """The sources as printed."""
    return [
        {
            "Source": row["source"] or "(none)",
            "Set": SETS[row["set"]],
            **{f"n {name}": f"{row[f'images_{name}']:,}" for name in classes},
            "Patients": f"{row['patients']:,}",
            "Accuracy": interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
            "Balanced accuracy": interval(
                row["balanced_accuracy"], row["balanced_accuracy_low"], row["balanced_accuracy_high"]
            ),
            "AUC, macro": number(row["auc_macro"]),
        }
        for row in rows
    ]


def mistake_rows(predictions: Predictions) -> list[Row]:
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


def number(value: float | None) -> str:
    """With three decimals, and a dash for what is undefined.

    >>> number(0.96349), number(None), number(-0.05)
    ('0.963', '–', '−0.050')
    """
    return "–" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def spread(value: Mapping[str, Any]) -> str:
    """Mean ± standard deviation, for the terminal and Markdown.

    >>> spread({"mean": 0.9634, "std": 0.00445, "n": 5}), spread({"mean": None, "std": None, "n": 0})
    ('0.963 ± 0.004', '-')
    """
    return "-" if value["mean"] is None else f"{value['mean']:.3f} ± {value['std']:.3f}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number with its 95 % interval.

    >>> interval(0.9, 0.85, 0.94), interval(0.9, None, None), interval(None, None, None)
    ('0.900 (0.850–0.940)', '0.900', '–')
    """
    return number(value) if low is None else f"{number(value)} ({number(low)}–{number(high)})"
