"""The report's parts, each a title, HTML, and the tables that go beside it as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cvrnet.html import paragraph, picture, table
from cvrnet.report.report_tables import (
    OVERALL,
    Row,
    class_rows,
    interval,
    number,
    overall_rows,
    paper_rows,
    shown_class_rows,
    shown_paper_rows,
    shown_source_rows,
    source_rows,
)
from cvrnet.report.results import Results
from cvrnet.runs.layout import FIGURES, INDEPENDENT
from cvrnet.scoring.head_accuracy import head_rows
from cvrnet.scoring.score import RATES

GROUPS = (("", 2), ("Support-weighted", 3), ("", 1), ("Macro", 4))
INTERVALS = (
    "In brackets: 95 % intervals, from {resamples:,} bootstrap resamples of the {groups:,} patients, each with all of "
    "its images."
)
EXACT = (
    " † Without a single error (or hit) the bootstrap gives no interval: this one is the exact binomial interval, of "
    "as many trials as there are patients."
)
FEW = " Without brackets: too few patients for an interval."


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: As text.
        html: Its content.
        tables: Name of a file in tables/ (without .csv) to its rows.
    """

    title: str
    html: str
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def papers_table(results: Results) -> Section:
    """v1's Table 3 for this run, with the independent source and the drop below."""
    source = results.run.get("test_source") or ""
    drop = bool(source) and results.kind == "train"
    rows = paper_rows(results.results, drop=drop)
    names = {
        "val": "Validation",
        "test": f"Test: {source}" if drop else "Test",
        "drop": f"Drop on {source}",
        "mean": "Mean",
        f"{source} mean": f"Mean on {source}",
        "drop mean": "Drop",
    }
    names |= {f"fold {k}": f"Fold {k}" for k in range(1, len(results.folds) + 1)}
    notes = {
        "crossval": "Each fold's model is scored on the images of its own fold, none of which it was trained or "
        "validated on. Mean ± standard deviation over the folds (dividing by their number, as the papers do).",
        "train": "The best epoch was chosen on the validation images.",
        "evaluate": "",
    }
    text = notes[results.kind] + " Support-weighted averages are the papers'; macro averages count every class alike."
    if INDEPENDENT in results.results:
        text += f" Below: the same models on {source}, which none of them has seen, and the drop (fold by fold)."
    html = table(shown_paper_rows(rows, names), "scores", GROUPS) + paragraph(text.strip(), "note")
    return Section("Results", html, {"results": rows})


def confusion(results: Results) -> Section:
    """The confusion matrix of all test images."""
    text = "Counts, and the share of the actual class (of the column)"
    text += ", summed over the folds." if results.kind == "crossval" else "."
    return Section("Confusion matrix", figures(results, {"confusion_matrix": text}))


def per_class(results: Results) -> Section:
    """Sensitivity, specificity, predictive values, and the scores of the whole set, with intervals."""
    rows, overall = class_rows(results.scores), overall_rows(results.scores)
    note = (
        _about_intervals(results.scores, rows)
        + " Each class stands against the others; PPV and NPV hold for this set's shares of the classes."
    )
    whole = [
        {"": OVERALL[row["score"]][0], "Value": interval(row["value"], row["low"], row["high"])} for row in overall
    ]
    html = table(shown_class_rows(rows), "scores") + paragraph(note, "note") + table(whole, "scores")
    return Section("Each class", html, {"classes": rows, "overall": overall})


def independent(results: Results) -> Section | None:
    """The independent source of a cross-validation: matrix and classes."""
    scores = results.independent
    if scores is None:
        return None
    source, rows = results.run["test_source"], class_rows(scores)
    n = len(results.folds)
    text = f"Each of the {n} models answers each of the {scores['n'] // n:,} images; counts are sums over the models. "
    text += _about_intervals(scores, rows)
    pictures = {
        f"confusion_matrix_{INDEPENDENT}": f"Confusion matrix on {source}.",
        f"roc_{INDEPENDENT}": f"ROC curves on {source}.",
    }
    html = paragraph(text) + table(shown_class_rows(rows), "scores") + figures(results, pictures)
    return Section("The independent source", html, {f"classes_{INDEPENDENT}": rows})


def _about_intervals(scores: Mapping[str, Any], rows: Sequence[Row]) -> str:
    few = any(row[rate] is not None and row[f"{rate}_low"] is None for row in rows for rate in RATES)
    text = INTERVALS.format(**scores["intervals"]["bootstrap"])
    return text + (EXACT if scores["intervals"]["exact"] else "") + (FEW if few else "")


def curves(results: Results) -> Section:
    """ROC and precision-recall curves."""
    html = figures(
        results,
        {
            "roc": "ROC curves, each class against the others, and their mean.",
            "precision_recall": "Precision-recall curves, each class against the others, and their mean.",
        },
    )
    return Section("ROC and precision-recall", html)


def calibration(results: Results) -> Section:
    """Do the probabilities mean what they say?"""
    spread = {row["score"]: interval(row["value"], row["low"], row["high"]) for row in overall_rows(results.scores)}
    text = (
        f"Expected calibration error (15 bins of the predicted class's probability) "
        f"{spread['expected_calibration_error']}, Brier score over all classes (0 to 2) {spread['brier_score']}."
    )
    caption = "Observed against predicted probability; below, the images in each bin of the predicted class."
    return Section("Calibration", paragraph(text) + figures(results, {"calibration": caption}))


def heads(results: Results) -> Section | None:
    """What the averaging of the heads buys; nothing for a model without heads."""
    rows = head_rows(results.folds)
    if not rows:
        return None
    *_, mean, best, model = rows
    gain, over = model["accuracy"] - mean["accuracy"], model["accuracy"] - best["accuracy"]
    text = (
        f"The model answers with the average of its heads' probabilities: accuracy {number(model['accuracy'])}, "
        f"{number(abs(gain))} {'more' if gain >= 0 else 'less'} than its heads alone on average, "
        f"{number(abs(over))} {'more' if over >= 0 else 'less'} than the {best['head']}, which was picked on the "
        "images that it is scored on."
    )
    cells = [
        {"Head": row["head"][0].upper() + row["head"][1:], "Accuracy": number(row["accuracy"])}
        | ({"Std over folds": number(row["std"])} if row["std"] is not None else {})
        for row in rows
    ]
    pictures = figures(results, {"heads": "Accuracy of each head, and of their average."})
    return Section("What the averaging buys", paragraph(text) + table(cells, "scores") + pictures, {"heads": rows})


def sources(results: Results) -> Section:
    """Each source's results, in every set."""
    if not results.sources:
        return Section("Each source", paragraph("The data set does not say where its images come from."))
    rows = [row for name, scores in results.sets.items() for row in source_rows(name, scores)]
    text = (
        "Balanced accuracy is the mean sensitivity of the classes that the source has: with one class only, it says "
        "nothing about telling classes apart."
    )
    html = table(shown_source_rows(rows, results.scores["classes"]), "scores") + paragraph(text, "note")
    return Section("Each source", html, {"sources": rows})


def learning(results: Results) -> Section | None:
    """Learning curves, of all folds in one figure; none for an evaluation."""
    if results.kind == "evaluate":
        return None
    return Section("Learning curves", figures(results, {"learning_curves": "Loss and validation score by epoch."}))


def figures(results: Results, captions: Mapping[str, str]) -> str:
    """Figures of the run side by side, embedded.

    Args:
        results: The run.
        captions: Name of a file in figures/ (without .png) to the text below it.
    """
    folder = results.folder / FIGURES
    parts = [
        picture((folder / f"{name}.png").read_bytes(), caption, f"{caption} (Data: {FIGURES}/{name}.csv)")
        for name, caption in captions.items()
    ]
    return f'<div class="figures">{"".join(parts)}</div>'
