"""Report problems of outcomes: films from after the event, and how well the view (AP or PA) predicts the event."""

from __future__ import annotations

from collections.abc import Sequence

from cvrnet.audit.findings import Estimate, Finding, grade
from cvrnet.data import Record
from cvrnet.data.outcomes import YES, Course, films_after, view_score
from cvrnet.data.splits import patient_keys
from cvrnet.data.studies import day_of
from cvrnet.formatting import count
from cvrnet.metrics.bootstrap import auc_interval


def outcome_findings(course: Course, records: Sequence[Record]) -> list[Finding]:
    """Report films from the event's day or later, and how well the view (AP or PA) predicts the event.

    Also report if the outcome's column says yes or no, without a day, or has only 0 and 1 (`Course.notes`).
    """
    column = course.outcome.column
    findings = [
        Finding("outcome-column", "warning", f"{note[0].upper()}{note[1:]}.", advice="State the day of the event.")
        for note in course.notes
    ]
    after = films_after(course, records)
    if after:
        patients = len({record.patient_id or record.name for record in after})
        sentence = (
            f"{count(len(after), 'film')} of {len(records):,} ({count(patients, 'patient')}) "
            f"{'is' if len(after) == 1 else 'are'} from the day of {column} or later: such a film shows the event "
            "instead of predicting it."
        )
        rows = [
            {"path": r.name, "patient_id": r.patient_id, "day": day_of(r), column: r.metadata.get(column, "")}
            for r in after
        ]
        advice = f"Train with --outcome {column}, which drops these films; do not use the event as a label."
        figures = {"films": len(after), "patients": patients, "table": rows}
        findings.append(Finding("after-event", "severe", sentence, figures, tuple(r.name for r in after), advice))
    return findings + _view_findings(records, column)


def _view_findings(records: Sequence[Record], column: str) -> list[Finding]:
    """Report how well the view predicts the event: bedside films (AP) are taken of patients who cannot stand."""
    known = [(r, score) for r in records if (score := view_score(r.view)) != 0.5]
    truth, scores = [r.label == YES for r, _ in known], [score for _, score in known]
    if len({*truth}) < 2 or len({*scores}) < 2:
        return []
    auc, bounds = auc_interval(truth, scores, patient_keys([r for r, _ in known]))
    found = Estimate.of(auc or 0.0, bounds)
    yes, no = (
        sum(score for score, event in zip(scores, truth, strict=True) if event == side) / truth.count(side)
        for side in (True, False)
    )
    sentence = (
        f"The view alone (AP or PA) predicts {column} with AUC {found}: {yes:.0%} of the films of patients with the "
        f"event are AP, and {no:.0%} of the other films."
    )
    advice = "A bedside film is a sign of severe disease: compare models with this AUC, and score them within one view."
    severity = grade(severe=False, warning=bounds is not None and found.low > 0.5)
    figures = {"auc": found.value, "ap_yes": yes, "ap_no": no}
    return [Finding("view-outcome", severity, sentence, figures, advice=advice)]
