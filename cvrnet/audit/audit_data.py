"""The audit from end to end: the manifest, one pass over the images, then every search for findings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cvrnet.audit.duplicates import duplicate_findings
from cvrnet.audit.examination import Examination
from cvrnet.audit.findings import Finding, count, worst_first
from cvrnet.audit.measurements import measure
from cvrnet.audit.metadata_findings import patient_findings, source_findings
from cvrnet.audit.model_findings import model_findings
from cvrnet.audit.shortcuts import shortcut_findings
from cvrnet.data import DataError, Record, check_classes, scan_records


def read_audited(data: str | Path) -> tuple[list[Record], list[str]]:
    """The images that can be audited, and one line for each row that cannot.

    Unlike `cvrnet.data.read_records` this accepts patients in two splits and a single class: the audit reports them.

    Raises:
        DataError: No image is left.
    """
    records, problems = scan_records(data, min_classes=1, allow_shared_patients=True)
    if not records:
        raise DataError(problems, data)
    return records, problems


def audit(
    records: Sequence[Record],
    problems: Sequence[str] = (),
    *,
    seed: int = 0,
    workers: int = 2,
    examination: Examination | None = None,
    progress: Callable[[int, int], object] | None = None,
    step: Callable[[str], object] | None = None,
) -> list[Finding]:
    """All findings about a data set's labels, sources, patients and images, the worst first.

    Args:
        records: The images, labelled.
        problems: Why other images cannot be used, one line each; they become a finding.
        seed: For folds, permutations, resamples and the search for near-duplicates; equal seeds give equal findings.
        workers: Threads that read images.
        examination: A trained model, whose predictions on the images are audited too.
        progress: Called after each image with the number of images read and their total.
        step: Called with the name of each step before it starts.

    Raises:
        DataError: No image can be read.
        UserError: An image has a label that the model does not know.
    """
    step = step or (lambda name: None)
    if examination is not None:
        check_classes((r.label for r in records), examination.classes)
    findings = source_findings(records) + patient_findings(records) if records else []
    with tempfile.TemporaryDirectory(prefix="cvrnet-audit-") as folder:
        step("reading images")
        measured, unreadable = measure(
            records, Path(folder), workers=workers, examination=examination, progress=progress
        )
        lines = [*problems, *(record.problem(reason) for record, reason in unreadable)]
        if not measured.records:
            raise DataError(lines or ["no images"], "the data set")
        if lines:
            findings.append(_unusable(lines, tuple(record.name for record, _ in unreadable)))
        if examination is not None:
            findings += model_findings(examination, seed)
        step("looking for copies")
        findings += duplicate_findings(measured, seed=seed, workers=workers)
        step("probing for shortcuts")
        findings += shortcut_findings(measured, seed)
    return worst_first(findings)


def _unusable(lines: list[str], files: tuple[str, ...]) -> Finding:
    sentence = f"{count(len(lines), 'row or image', 'rows or images')} cannot be used: {lines[0]}"
    return Finding(
        "unusable-images",
        "warning",
        sentence + (" and others." if len(lines) > 1 else "."),
        {"table": [{"problem": line} for line in lines]},
        files,
        "Mend or remove them.",
    )
