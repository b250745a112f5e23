"""Report problems of labels, sources and patients that the manifest alone shows; no image is opened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import chi2_contingency

from cvrnet.audit.findings import Finding, Severity, grade
from cvrnet.data import Record
from cvrnet.data.splits import patient_keys
from cvrnet.formatting import count

SEVERE_V, WARNING_V = 0.5, 0.2
MOSTLY = 0.9  # a class is reported if at least this share of its images comes from one source
LARGE = 0.1  # a patient id is reported if a larger share of all images has this id
LEAST = 5  # an id with fewer images is not reported: in a small data set, a tenth of the images means nothing
TIMES = 3  # a reported id has at least this many times the median number of images of the other patients

_APART = "Compare classes within one source, and test on a source that is not used for training."
CAME_OR_WENT = "If the disease did not change between the images, correct the labels. Split by patient, never by image."
_SHARED: dict[str, tuple[Severity, str]] = {
    "split": ("severe", "Put all images of a patient into one split."),
    "label": ("note", CAME_OR_WENT),
    "source": ("warning", "If these are different persons, give them different ids; otherwise, the sources overlap."),
}
"""Attributes that can differ between the images of one patient -> severity and advice if they differ."""


def cramers_v(table: np.ndarray) -> float:
    """Return the bias-corrected Cramér's V of a contingency table: how strongly its rows and columns are associated.

    V is 0 if rows and columns are independent, and 1 if the one determines the other.

    The correction is Bergsma's (J. Korean Stat. Soc. 42, 2013): without it, V is well above 0 for a data set of few
    images from many sources, even if label and source are independent. A table with one row or one column gives 0, and
    so does a table of so few images that V cannot be corrected, such as the last example.

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
    if min(rows, columns) <= 1:  # so few images that V cannot be corrected
        return 0.0
    return float(min(np.sqrt(phi2 / (min(rows, columns) - 1)), 1.0))


def source_findings(records: Sequence[Record], what: str = "Class") -> list[Finding]:
    """Find how strongly class and source are associated, and whether a class or all images come from one source.

    ``what`` is the word for the class in the sentences of the results.
    """
    labels, sources = sorted({r.label for r in records}), sorted({r.source for r in records})
    rows, table = label_table([r.label for r in records], [r.source for r in records], patient_keys(records))
    if len(sources) < 2:
        where = f"All images come from one source, {sources[0]}" if sources[0] else "No image has a source"
        advice = "Name the sources in the manifest's column source, and test on a source that is not used for training."
        sentence = f"{where}, so there is no independent source to test on."
        return [Finding("independent-source", "warning", sentence, {"table": rows}, advice=advice)]
    findings = [association(table, rows, what)] if len(labels) > 1 else []
    for label, images in zip(labels, table, strict=True):
        findings += from_one_source(label, images, sources)
    return findings


def label_table(
    labels: Sequence[str], sources: Sequence[str], patients: Sequence[str]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Count the images and patients of each label and source.

    The arguments have the label, the source and the patient of each image. Return a row for each pair of a label and a
    source, and the numbers of images as an array (labels, sources).
    """
    who: dict[tuple[str, str], list[str]] = {pair: [] for pair in product(sorted({*labels}), sorted({*sources}))}
    for label, source, patient in zip(labels, sources, patients, strict=True):
        who[label, source].append(patient)
    rows = [
        {"label": label, "source": source, "images": len(found), "patients": len(set(found))}
        for (label, source), found in who.items()
    ]
    return rows, np.array([row["images"] for row in rows]).reshape(len({*labels}), len({*sources}))


def from_one_source(label: str, images: np.ndarray, sources: list[str]) -> list[Finding]:
    """Return one result, in a list, if nearly all images of a class are from one source; otherwise an empty list.

    ``images``, of shape (sources,), has the number of images of the class in each source.
    """
    share, total, source = float(images.max() / images.sum()), int(images.sum()), sources[int(images.argmax())]
    if share < MOSTLY:
        return []
    which = f"{'All' if share == 1 else f'{share:.0%} of'} {total:,} images of {label}"
    sentence = f"{which} come from one source, {source or '(none named)'}."
    severity = grade(severe=share == 1, warning=True)
    figures = {"share": share, "images": total, "source": source}
    advice = f"Add images of {label} from another source; otherwise, a model may recognise the source, not {label}."
    return [Finding(f"class-source:{label}", severity, sentence, figures, advice=advice)]


def association(table: np.ndarray, rows: list[dict[str, Any]], what: str) -> Finding:
    """Report how label and source are associated.

    ``rows`` and ``table`` are the two values that `label_table` returns. ``what`` is the word for the label in the
    sentence of the result.
    """
    v = cramers_v(table)
    severity = grade(severe=v >= SEVERE_V, warning=v >= WARNING_V)
    by_source, by_majority = float(table.max(0).sum() / table.sum()), float(table.sum(1).max() / table.sum())
    sentence = (
        f"{what} and source are {'hardly associated' if severity == 'note' else 'associated'}: Cramér's V {v:.2f}; the "
        f"source alone gives the right class for {by_source:.0%} of the images; always guessing the most frequent "
        f"class is right for {by_majority:.0%}."
    )
    figures = {"cramers_v": v, "accuracy_from_source": by_source, "accuracy_of_largest_class": by_majority}
    advice = "" if severity == "note" else _APART
    return Finding("label-source", severity, sentence, {**figures, "table": rows}, advice=advice)


def patient_findings(records: Sequence[Record]) -> list[Finding]:
    """Find images without a patient id, ids with too many images, and patients in several splits, labels or sources."""
    findings = []
    if without := tuple(r.name for r in records if not r.patient_id):
        severity = grade(severe=len(without) == len(records), warning=True)
        sentence = f"{count(len(without), 'image')} of {len(records):,} have no patient id: "
        sentence += "images of one patient may be in several folds."
        advice = "Fill the manifest's column patient_id; an image without an id counts as a separate patient."
        findings.append(Finding("patient-id", severity, sentence, {"images": len(without)}, without, advice))
    findings += _large_patients(records)
    for attribute, (severity, advice) in _SHARED.items():
        members: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.patient_id and getattr(record, attribute):
                members[record.patient_id].append(record)
        values = {patient: sorted({getattr(r, attribute) for r in found}) for patient, found in members.items()}
        shared = [patient for patient in members if len(values[patient]) > 1]
        if not shared:
            continue
        sentence = f"{count(len(shared), 'patient')} {'appears' if len(shared) == 1 else 'appear'} in more than one "
        rows = [
            {"patient_id": patient, f"{attribute}s": "|".join(values[patient]), "images": len(members[patient])}
            for patient in sorted(shared)
        ]
        figures = {"patients": len(shared), "table": rows}
        files = tuple(r.name for patient in shared for r in members[patient])
        findings.append(Finding(f"patient-{attribute}s", severity, f"{sentence}{attribute}.", figures, files, advice))
    return findings


def _large_patients(records: Sequence[Record]) -> list[Finding]:
    """Report patient ids with too many images for one person, such as a placeholder or a hospital's name."""
    images = Counter(record.patient_id for record in records if record.patient_id)
    rows = []
    for patient, number in images.most_common(10):  # at most ten ids can have more than a tenth of the images
        others = [of for name, of in images.items() if name != patient]
        usual = float(np.median(others)) if others else 0.0
        if number > LARGE * len(records) and number >= max(LEAST, TIMES * usual):
            rows.append({"patient_id": patient, "images": number, "share": number / len(records)})
    if not rows:
        return []
    worst = rows[0]
    sentence = f"One patient id, {worst['patient_id']}, has {worst['images']:,} of {len(records):,} images"
    more = len(rows) - 1
    sentence += f", and {count(more, 'other id has', 'other ids have')} over a tenth." if more else ": over a tenth."
    names = {row["patient_id"] for row in rows}
    files = tuple(record.name for record in records if record.patient_id in names)
    advice = "If the id is a placeholder or is shared by several persons, leave it empty or write each person's own id."
    return [Finding("patient-share", "severe", sentence, {"patients": len(rows), "table": rows}, files, advice)]
