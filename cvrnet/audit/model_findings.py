"""What a trained model's answers say: by source, without the lungs, and with nothing but the lungs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from cvrnet.audit.examination import ONLY, WHOLE, WITHOUT, Examination
from cvrnet.audit.findings import Finding, Severity, count
from cvrnet.audit.probes import MIN_PATIENTS
from cvrnet.data import Record
from cvrnet.metrics import bootstrap_intervals, classification_scores

MIN_MASKED = 5  # patients of a class whose lungs can be hidden
MARGIN = 0.05  # above chance
GAP = 0.1  # between sources' errors, or between confidence and accuracy: severe, or a warning
RESAMPLES = 1000


def model_findings(examined: Examination, seed: int = 0) -> list[Finding]:
    """All findings about the model, or one that says why there are none."""
    if not examined.records:
        advice = "Give images that are not in the run's training set, or audit a cross-validation."
        return [Finding("model", "warning", "The model was trained on all of these images.", advice=advice)]
    return [_by_source(examined, seed), *_lungs(examined, seed)]


def _by_source(examined: Examination, seed: int) -> Finding:
    records = examined.records
    probabilities = examined.table(WHOLE, records)
    truth = np.array([examined.classes.index(r.label) for r in records])
    wrong, confidence = (probabilities.argmax(1) != truth).astype(float), probabilities.max(1)
    sources = sorted({r.source for r in records})
    rows: list[dict[str, Any]] = []
    for source in ["all", *sources] if len(sources) > 1 else sources:
        here = np.array([source == "all" or r.source == source for r in records])
        patients = _patients([r for r, inside in zip(records, here, strict=True) if inside])
        error = interval_of_mean(wrong[here], patients, seed)
        gap = interval_of_mean((confidence - (1 - wrong))[here], patients, seed)
        rows.append(
            {
                "source": source or "(no source)",
                "images": int(here.sum()),
                "patients": len(set(patients)),
                "confidence": float(confidence[here].mean()),
                "error": float(wrong[here].mean()),
                "error_low": error[0],
                "error_high": error[1],
                "calibration_gap": float((confidence - (1 - wrong))[here].mean()),
                "calibration_gap_low": gap[0],
                "calibration_gap_high": gap[1],
            }
        )
    judged = [row for row in rows[len(sources) > 1 :] if row["patients"] >= MIN_PATIENTS]
    severity, advice = _judge(judged)
    shown = sorted(judged or rows, key=lambda row: -row["error"])
    shown = shown if len(shown) < 4 else [shown[0], shown[-1]]
    parts = ", ".join(
        f"on {row['source']} {_percent(row)} at a mean confidence of {row['confidence']:.2f} "
        f"({count(row['images'], 'image')})"
        for row in shown
    )
    which = "that it was not trained on" if examined.known else "(whether it was trained on them is not known)"
    scores = classification_scores(truth, probabilities, examined.classes)
    return Finding(
        "model-sources",
        severity,
        f"Of {count(len(records), 'image')} {which} the model gets wrong {parts}.",
        {"balanced_accuracy": scores["balanced_accuracy"], "held_out": examined.known, "table": rows},
        advice=advice,
    )


def _judge(rows: Sequence[dict[str, Any]]) -> tuple[Severity, str]:
    """Do sources differ in error beyond their intervals, and is the model surer than it may be?"""
    worst, best = (pick(rows, key=lambda row: row["error"], default=None) for pick in (max, min))
    apart = worst["error_low"] - best["error_high"] if worst and best and len(rows) > 1 else 0.0
    too_sure = [row["source"] for row in rows if row["calibration_gap_low"] > GAP]
    advice = ""
    if worst and best and apart > 0:
        advice = f"Report each source by itself: {worst['source']} is not read as {best['source']} is. "
    if too_sure:
        advice += f"The probabilities promise too much on {', '.join(too_sure)}: calibrate them there before use."
    return "severe" if apart > GAP else "warning" if apart > 0 or too_sure else "note", advice.strip()


def _lungs(examined: Examination, seed: int) -> list[Finding]:
    """Performance with the lungs hidden and with only the lungs, where masks exist."""
    patients = {c: {p for r, p in _with_patient(examined.masked) if r.label == c} for c in examined.classes}
    classes = [c for c in examined.classes if len(patients[c]) >= MIN_MASKED]
    records = [r for r in examined.masked if r.label in classes]
    findings = []
    if examined.problems:
        lines = [{"image": r.name, "problem": reason} for r, reason in examined.problems]
        findings.append(
            Finding(
                "model-lung-masks",
                "warning",
                f"{count(len(lines), 'lung mask')} cannot be used: {lines[0]['problem']}.",
                {"table": lines},
                tuple(r.name for r, _ in examined.problems),
                "Mend the masks or leave their cells empty.",
            )
        )
    if len(classes) < 2:
        have = ", ".join(f"{c} {len(patients[c])}" for c in examined.classes)
        why = (
            f"fewer than two classes have masks of {MIN_MASKED} patients whose images the model was not trained on "
            f"({have})"
            if examined.masked
            else "no image that the model was not trained on has a lung mask (column lung_mask)"
        )
        advice = "With lung masks the audit shows whether the model needs the lungs."
        return [*findings, Finding("model-without-lungs", "note", f"The lungs were not hidden: {why}.", advice=advice)]
    rows = [_view_row(examined, view, records, classes, seed) for view in (WHOLE, WITHOUT, ONLY)]
    return [*findings, _without(rows, examined, records), _only(rows)]


def _view_row(
    examined: Examination, view: str, records: Sequence[Record], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    """Scores of one view, among the classes that have masks alone: else chance would not be one in so many."""
    columns = [examined.classes.index(c) for c in classes]
    table = examined.table(view, records)[:, columns] + 1e-12
    table /= table.sum(1, keepdims=True)
    truth = np.array([classes.index(r.label) for r in records])
    scores = classification_scores(truth, table, classes)
    bounds = bootstrap_intervals(truth, table, classes, _patients(records), n=RESAMPLES, seed=seed)
    row: dict[str, Any] = {"view": view}
    for name, value, interval in (
        ("balanced_accuracy", scores["balanced_accuracy"], bounds["balanced_accuracy"]),
        ("auc", scores["macro"]["roc_auc"], bounds["macro"]["roc_auc"]),
    ):
        low, high = interval or (value, value)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {
        "chance": 1 / len(classes),
        "confidence": float(table.max(1).mean()),
        "classes": "|".join(classes),
        "images": len(records),
        "patients": len(set(_patients(records))),
    }


def _without(rows: list[dict[str, Any]], examined: Examination, records: Sequence[Record]) -> Finding:
    whole, without, _ = rows
    above = max(without["balanced_accuracy_low"] - without["chance"], without["auc_low"] - 0.5)
    severity: Severity = "severe" if above > MARGIN else "warning" if above > 0 else "note"
    if severity != "note":
        verdict, advice = (
            "so it reads something other than the lungs",
            "The score does not show that the model recognises disease: find what it reads (source, size, markers, "
            "view), take that out of the images, and train again.",
        )
    elif whole["balanced_accuracy_low"] <= whole["chance"]:
        verdict, advice = "no more than chance either way, so nothing follows", ""
    else:
        verdict, advice = "chance, as it should be", ""
    remains = dict(zip((r.name for r in examined.masked), examined.remains, strict=True))
    share = float(np.median([remains[r.name] for r in records]))
    return Finding(
        "model-without-lungs",
        severity,
        f"With the lungs hidden the model reaches balanced accuracy {_score(without)}, AUC {_score(without, 'auc')}, "
        f"with whole images {_score(whole)}, AUC {_score(whole, 'auc')}: {verdict} "
        f"({count(whole['images'], 'image')}, {whole['classes'].replace('|', ', ')}; chance is {whole['chance']:.2f}).",
        {"share_of_image_left": share, "table": rows},
        advice=advice,
    )


def _only(rows: list[dict[str, Any]]) -> Finding:
    whole, _, only = rows
    lost = only["balanced_accuracy_high"] < whole["balanced_accuracy_low"]
    return Finding(
        "model-only-lungs",
        "warning" if lost else "note",
        f"With nothing but the lungs the model reaches balanced accuracy {_score(only)}, AUC {_score(only, 'auc')}"
        + (f", less than with whole images, {_score(whole)}." if lost else "."),
        {**only},
        advice="The model needs what is outside the lungs, or is confused by images without it: see the finding "
        "without lungs."
        if lost
        else "",
    )


def interval_of_mean(values: np.ndarray, patients: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean over images, by resampling patients with all their images.

    Where all values are 0 or all 1, so that no resample differs, it is the exact binomial one (Clopper and Pearson) of
    so many patients.

    >>> low, high = interval_of_mean(np.zeros(30), [str(i) for i in range(30)])
    >>> low, round(high, 2)
    (0.0, 0.12)
    """
    _, number = np.unique(np.asarray(patients), return_inverse=True)
    n = int(number.max()) + 1
    if len(unique := np.unique(values)) == 1 and unique[0] in (0, 1):
        bounds = binomtest(int(unique[0]) * n, n).proportion_ci(0.95, "exact")
        return float(bounds.low), float(bounds.high)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    low, high = np.percentile((draws @ sums) / (draws @ sizes), [2.5, 97.5])
    return float(low), float(high)


def _with_patient(records: Sequence[Record]) -> list[tuple[Record, str]]:
    return [(r, r.patient_id or f"\t{r.name}") for r in records]


def _patients(records: Sequence[Record]) -> list[str]:
    return [patient for _, patient in _with_patient(records)]


def _percent(row: dict[str, Any]) -> str:
    return f"{row['error']:.0%} ({row['error_low']:.0%}-{row['error_high']:.0%})"


def _score(row: dict[str, Any], name: str = "balanced_accuracy") -> str:
    return f"{row[name]:.2f} ({row[f'{name}_low']:.2f}-{row[f'{name}_high']:.2f})"
