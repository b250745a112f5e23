"""The audit from end to end: the manifest, then one pass over the images, then everything found in them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cvrnet.audit.duplicates import duplicate_findings
from cvrnet.audit.examination import Examination
from cvrnet.audit.findings import Finding, count, worst_first
from cvrnet.audit.measurements import measure
from cvrnet.audit.model_findings import model_findings
from cvrnet.audit.shortcuts import floor_finding, label_findings, source_finding
from cvrnet.audit.tables import patient_findings, source_findings
from cvrnet.data import Record, scan_records
from cvrnet.data.manifest import scan_manifest
from cvrnet.data.record import Row
from cvrnet.data.scan import MANIFEST, DataError

_TWO_SPLITS = re.compile(r"patient .* in two splits: ")


def read_audited(data: str | Path) -> tuple[list[Record], list[str]]:
    """The images that can be audited, and one line for each row that cannot.

    Other than `cvrnet.data.read_records` this keeps patients that are in two splits: the audit is to find them.

    Raises:
        DataError: if no image is left.
    """
    path = Path(os.path.abspath(data))
    path = path / MANIFEST if (path / MANIFEST).is_file() else path
    if path.is_file():
        rows: list[Row] = []
        general = [f"{data}: {problem}" for problem in scan_manifest(path, True, rows)]
        wrong = [(record, [w for w in reasons if not _TWO_SPLITS.match(w)]) for record, reasons in rows]
        records = [record for record, reasons in wrong if not reasons]
        problems = [record.problem(reason) for record, reasons in wrong for reason in reasons] + general
    else:
        records, problems = scan_records(data, min_classes=1)
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
    """Everything that a data set's labels, sources, patients and images say against it, the worst first.

    Args:
        records: The images, labelled.
        problems: What is wrong with images that are not among them, one line each; becomes a finding.
        seed: Of folds, permutations, resamples and the search for near-duplicates; equal seeds give equal findings.
        workers: Threads that read images.
        examination: A trained model that is asked about the images as well.
        progress: Called with the number of images done and their number.
        step: Called with the name of each step as it begins.

    Raises:
        DataError: if there is no image that can be read.
        UserError: if an image has a label that the model does not know.
    """
    if examination is not None:
        examination.check(records)
    say = step or (lambda name: None)
    findings = source_findings(records) + patient_findings(records) if records else []
    with tempfile.TemporaryDirectory(prefix="cvrnet-audit-") as folder:
        say("reading images")
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
        say("looking for copies")
        findings += duplicate_findings(measured, seed=seed, workers=workers)
        say("probing for shortcuts")
        findings += label_findings(measured, seed)
        findings += [f for f in (source_finding(measured, seed), floor_finding(measured, seed)) if f is not None]
    return worst_first(findings)


def _unusable(lines: list[str], files: tuple[str, ...]) -> Finding:
    return Finding(
        "unusable-images",
        "warning",
        f"{count(len(lines), 'row or image', 'rows or images')} cannot be used: {lines[0]}"
        + (" and others" if len(lines) > 1 else "")
        + ".",
        {"table": [{"problem": line} for line in lines]},
        files,
        "Mend or remove them.",
    )
