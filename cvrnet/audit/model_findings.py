"""Report problems of a trained model: its errors on each source, and its scores if the lungs or all else is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvrnet.audit.examination import ONLY, WHOLE, WITHOUT, Examination
from cvrnet.audit.findings import Estimate, Finding, Severity, flat_row, grade
from cvrnet.audit.probes import MIN_PATIENTS
from cvrnet.data import Record
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count
from cvrnet.metrics import bootstrap_intervals, classification_scores
from cvrnet.metrics.bootstrap import exact_interval, mean_interval

MIN_MASKED = 5  # least number of a class's patients who have lung masks; classes with fewer are left out
MARGIN = 0.05  # severe if the interval of a score without the lungs starts more than this above chance
# Severe if the intervals of two sources' errors are further apart than this; warning if the interval of a source's
# calibration gap (mean confidence minus accuracy) starts above this.
GAP = 0.1


def model_findings(examined: Examination, seed: int = 0) -> list[Finding]:
    """Return all results about the model, or one result that says why the model was not audited."""
    if not examined.records:
        advice = "Use images that are not in the run's training set, or audit a cross-validation."
        return [Finding("model", "warning", "The model was trained on all of these images.", advice=advice)]
    findings = [_by_source(examined, seed)]
    if examined.problems:
        lines = [{"image": r.name, "problem": reason} for r, reason in examined.problems]
        sentence = f"{count(len(lines), 'lung mask')} cannot be used: {lines[0]['problem']}."
        names = tuple(r.name for r, _ in examined.problems)
        advice = "Repair the masks or leave their cells empty."
        findings.append(Finding("model-lung-masks", "warning", sentence, {"table": lines}, names, advice))
    return findings + _lungs(examined, seed)


def _by_source(examined: Examination, seed: int) -> Finding:
    """Return the result about the model's error, confidence and calibration gap on each source."""
    records, patients = examined.records, np.array(patient_keys(examined.records))
    probabilities = examined.probabilities(WHOLE, records)
    truth = np.array([examined.classes.index(r.label) for r in records])
    wrong, confidence = (probabilities.argmax(1) != truth).astype(float), probabilities.max(1)
    sources = sorted({r.source for r in records})
    rows: list[dict[str, Any]] = []
    for source in ["all", *sources] if len(sources) > 1 else sources:
        here = np.array([source == "all" or r.source == source for r in records])
        who = patients[here].tolist()
        rows.append(
            {
                "source": source or "(no source)",
                "images": len(who),
                "patients": len(set(who)),
                "confidence": float(confidence[here].mean()),
                "error": estimate_mean(wrong[here], who, seed),
                "calibration_gap": estimate_mean((confidence - (1 - wrong))[here], who, seed),
            }
        )
    judged = [row for row in rows[len(sources) > 1 :] if row["patients"] >= MIN_PATIENTS]
    severity, advice = _judge(judged)
    shown = sorted(judged or rows, key=lambda row: -row["error"].value)
    shown = shown if len(shown) < 4 else [shown[0], shown[-1]]
    parts = ", ".join(
        f"on {row['source']} {row['error']:.0%} at a mean confidence of {row['confidence']:.2f} "
        f"({count(row['images'], 'image')})"
        for row in shown
    )
    which = (
        "that it was not trained on" if examined.known else "(it is not known whether the model was trained on them)"
    )
    sentence = f"Error of the model on {count(len(records), 'image')} {which}: {parts}."
    balanced = classification_scores(truth, probabilities, examined.classes)["balanced_accuracy"]
    figures = {"balanced_accuracy": balanced, "held_out": examined.known, "table": [flat_row(row) for row in rows]}
    return Finding("model-sources", severity, sentence, figures, advice=advice)


def _judge(rows: Sequence[dict[str, Any]]) -> tuple[Severity, str]:
    """Return the severity and the advice, from the rows of sources in the table of `_by_source`.

    They depend on how far apart the error intervals of the worst and the best source are, and on whether the model is
    overconfident on a source.
    """
    too_sure = [row["source"] for row in rows if row["calibration_gap"].low > GAP]
    apart, advice = 0.0, ""
    if len(rows) > 1:
        worst, best = (pick(rows, key=lambda row: row["error"].value) for pick in (max, min))
        apart = worst["error"].low - best["error"].high
        if apart > 0:
            advice = f"Report each source separately: {worst['source']} has more errors than {best['source']}. "
    if too_sure:
        advice += f"The probabilities are too high on {', '.join(too_sure)}: calibrate them there before use."
    return grade(severe=apart > GAP, warning=apart > 0 or bool(too_sure)), advice.strip()


def _lungs(examined: Examination, seed: int) -> list[Finding]:
    """Return the results about hidden lungs and about only the lungs, for the classes that have enough lung masks."""
    masked = [r for r in examined.records if r.name in examined.remains]
    patients = {
        c: len({key for r, key in zip(masked, patient_keys(masked), strict=True) if r.label == c})
        for c in examined.classes
    }
    classes = [c for c in examined.classes if patients[c] >= MIN_MASKED]
    if len(classes) < 2:
        why = "no image outside the model's training set has a lung mask (column lung_mask)"
        if masked:
            have = ", ".join(f"{c} {n}" for c, n in patients.items())
            why = f"fewer than two classes have masks of {MIN_MASKED} patients outside the training set ({have})"
        advice = "With lung masks, the audit shows whether the model needs the lungs."
        if lungs := examined.preprocessing.lungs:
            why, advice = f"the model sees only the lungs (--lungs {lungs.mode})", ""
        return [Finding("model-without-lungs", "note", f"The lungs were not hidden: {why}.", advice=advice)]
    records = [r for r in masked if r.label in classes]
    rows = [_view_row(examined, view, records, classes, seed) for view in (WHOLE, WITHOUT, ONLY)]
    share = float(np.median([examined.remains[r.name] for r in records]))
    figures = {"share_of_image_left": share, "table": [flat_row(row) for row in rows]}
    whole, without, only = rows
    return [_without(whole, without, figures), _only(whole, only)]


def _view_row(
    examined: Examination, view: str, records: Sequence[Record], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return the model's scores on one view of the images, among the classes that have masks."""
    # The other classes' probabilities are left out, so chance is one in len(classes).
    columns = [examined.classes.index(c) for c in classes]
    table = examined.probabilities(view, records)[:, columns] + 1e-12  # no row may sum to 0
    table /= table.sum(1, keepdims=True)
    truth = np.array([classes.index(r.label) for r in records])
    patients = patient_keys(records)
    scores = classification_scores(truth, table, classes)
    bounds = bootstrap_intervals(truth, table, classes, patients, seed=seed)
    return {
        "view": view,
        "balanced_accuracy": Estimate.of(scores["balanced_accuracy"], bounds["balanced_accuracy"]),
        "auc": Estimate.of(scores["macro"]["roc_auc"], bounds["macro"]["roc_auc"]),
        "chance": 1 / len(classes),
        "confidence": float(table.max(1).mean()),
        "classes": tuple(classes),
        "images": len(records),
        "patients": len(set(patients)),
    }


def _without(whole: dict[str, Any], without: dict[str, Any], figures: dict[str, Any]) -> Finding:
    above = max(without["balanced_accuracy"].low - without["chance"], without["auc"].low - 0.5)
    severity, advice = grade(severe=above > MARGIN, warning=above > 0), ""
    if severity != "note":
        verdict = "so it uses something other than the lungs"
        advice = (
            "The score does not show that the model recognises disease: find out what it uses (source, size, markers, "
            "view), remove that from the images, and train again."
        )
    elif whole["balanced_accuracy"].low <= whole["chance"]:
        verdict = "no better than chance with and without lungs, so this shows nothing"
    else:
        verdict = "no better than chance, as it should be"
    sentence = (
        f"With the lungs hidden, the model reaches balanced accuracy {without['balanced_accuracy']}, AUC "
        f"{without['auc']}, and with whole images {whole['balanced_accuracy']}, AUC {whole['auc']}: {verdict} "
        f"({count(whole['images'], 'image')}, {', '.join(whole['classes'])}; chance is {whole['chance']:.2f})."
    )
    return Finding("model-without-lungs", severity, sentence, figures, advice=advice)


def _only(whole: dict[str, Any], only: dict[str, Any]) -> Finding:
    lost = only["balanced_accuracy"].high < whole["balanced_accuracy"].low
    sentence = f"With only the lungs, the model reaches balanced accuracy {only['balanced_accuracy']}, AUC "
    sentence += f"{only['auc']}" + (f", less than with whole images, {whole['balanced_accuracy']}." if lost else ".")
    advice = "The model needs the area outside the lungs, or is confused without it: see the result on hidden lungs."
    severity: Severity = "warning" if lost else "note"
    return Finding("model-only-lungs", severity, sentence, flat_row(only), advice=advice if lost else "")


def estimate_mean(values: np.ndarray, patients: Sequence[str], seed: int = 0) -> Estimate:
    """Return a mean over images and its 95 % interval from resampling patients.

    If all values are 0 or all are 1, all resamples are equal. The result then has the exact binomial interval, with one
    trial for each patient.

    >>> f"{estimate_mean(np.zeros(30), [str(i) for i in range(30)])}"
    '0.00 (0.00-0.12)'
    """
    mean, interval = float(values.mean()), mean_interval(values, patients, seed=seed)[1]
    if mean in (0, 1) and not np.ptp(values):
        interval = exact_interval(mean, len(set(patients)))
    return Estimate.of(mean, interval)
