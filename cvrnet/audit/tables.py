"""What the manifest alone shows: labels by source, and patients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2_contingency

from cvrnet.audit.findings import Finding, Severity, count
from cvrnet.data import Record

SEVERE_V, WARNING_V = 0.5, 0.2
MOSTLY = 0.9  # of a class's images from one source


def cramers_v(table: np.ndarray) -> float:
    """Cramér's V of a contingency table, corrected for its bias: 0 independent, 1 one decides the other.

    The correction of Bergsma (J. Korean Stat. Soc. 42, 2013), as few images with many sources would otherwise look
    tied. 0 for a table of one row or column.

    >>> cramers_v(np.array([[50, 50], [50, 50]])), round(cramers_v(np.array([[100, 0], [0, 100]])), 2)
    (0.0, 1.0)
    >>> cramers_v(np.array([[1, 0], [0, 1]]))
    0.0
    """
    n, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2:
        return 0.0
    phi2 = chi2_contingency(table, correction=False).statistic / n
    phi2 = max(phi2 - (rows - 1) * (columns - 1) / (n - 1), 0.0)
    rows, columns = rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)
    if min(rows, columns) <= 1:  # so few images that the correction leaves nothing
        return 0.0
    return float(min(np.sqrt(phi2 / (min(rows, columns) - 1)), 1.0))


def source_findings(records: Sequence[Record]) -> list[Finding]:
    """Class and source tied together; classes that come from one source only; no independent source."""
    sources, labels = sorted({r.source for r in records}), sorted({r.label for r in records})
    table = np.zeros((len(labels), len(sources)), np.int64)
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for number, record in enumerate(records):
        table[labels.index(record.label), sources.index(record.source)] += 1
        patients[record.label, record.source].add(record.patient_id or f"\0{number}")
    rows = [
        {"label": label, "source": source, "images": int(table[i, j]), "patients": len(patients[label, source])}
        for i, label in enumerate(labels)
        for j, source in enumerate(sources)
    ]
    if len(sources) < 2:
        what = f"All images come from one source, {sources[0]}" if sources[0] else "No image has a source"
        return [
            Finding(
                "independent-source",
                "warning",
                f"{what}: independent source: none.",
                {"table": rows},
                advice="Name the sources in the manifest's column source, and test on a source that did not train.",
            )
        ]
    findings = [_association(table, rows)] if len(labels) > 1 else []
    for i, label in enumerate(labels):
        j = int(table[i].argmax())
        share = table[i, j] / table[i].sum()
        if share < MOSTLY:
            continue
        only = share == 1
        findings.append(
            Finding(
                f"class-source:{label}",
                "severe" if only else "warning",
                f"{'All' if only else f'{share:.0%} of'} {table[i].sum():,} images of {label} come from one source, "
                f"{sources[j] or '(none named)'}.",
                {"share": float(share), "images": int(table[i].sum()), "source": sources[j]},
                advice=f"Get {label} from another source too; until then a model may know the source, not {label}.",
            )
        )
    return findings


def _association(table: np.ndarray, rows: list[dict[str, object]]) -> Finding:
    v = cramers_v(table)
    by_source, by_majority = table.max(0).sum() / table.sum(), table.sum(1).max() / table.sum()
    severity: Severity = "severe" if v >= SEVERE_V else "warning" if v >= WARNING_V else "note"
    sentence = "Class and source are tied together" if v >= WARNING_V else "Class and source are hardly tied"
    return Finding(
        "label-source",
        severity,
        f"{sentence}: Cramér's V {v:.2f}; the source alone gives the right class for {by_source:.0%} of the images, "
        f"always the largest class for {by_majority:.0%}.",
        {
            "cramers_v": v,
            "accuracy_from_source": float(by_source),
            "accuracy_of_largest_class": float(by_majority),
            "table": rows,
        },
        advice="Compare classes within one source, and test on a source that did not train."
        if severity != "note"
        else "",
    )


def patient_findings(records: Sequence[Record]) -> list[Finding]:
    """Patients shared by splits, labels or sources, and images without patient id."""
    findings = []
    without = tuple(r.name for r in records if not r.patient_id)
    if without:
        findings.append(
            Finding(
                "patient-id",
                "severe" if len(without) == len(records) else "warning",
                f"{count(len(without), 'image')} of {len(records):,} have no patient id: "
                "folds cannot keep their patients apart.",
                {"images": len(without)},
                without,
                "Fill the manifest's column patient_id; such an image is taken for a patient of its own.",
            )
        )
    severities: dict[str, tuple[Severity, str]] = {
        "split": ("severe", "Put all images of a patient into one split."),
        "label": ("note", "Right for a disease that came or went; else correct the labels. Never split by image."),
        "source": ("warning", "If these are different persons, give them different ids; else the sources overlap."),
    }
    for attribute, (severity, advice) in severities.items():
        members: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.patient_id and getattr(record, attribute):
                members[record.patient_id].append(record)
        shared = {p: rs for p, rs in members.items() if len({getattr(r, attribute) for r in rs}) > 1}
        if not shared:
            continue
        rows = [
            {
                "patient_id": patient,
                f"{attribute}s": "|".join(sorted({getattr(r, attribute) for r in found})),
                "images": len(found),
            }
            for patient, found in sorted(shared.items())
        ]
        findings.append(
            Finding(
                f"patient-{attribute}s",
                severity,
                f"{count(len(shared), 'patient')} {'appears' if len(shared) == 1 else 'appear'} in more than one "
                f"{attribute}.",
                {"patients": len(shared), "table": rows},
                tuple(r.name for found in shared.values() for r in found),
                advice,
            )
        )
    return findings
