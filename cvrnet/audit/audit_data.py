"""Run the whole audit: read the manifest, measure the images in one pass, look for problems, and write the files."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cvrnet.audit.audit_page import render_page
from cvrnet.audit.depths import depth_findings
from cvrnet.audit.duplicates import duplicate_findings
from cvrnet.audit.examination import Examination
from cvrnet.audit.findings import COLUMNS, SEVERITIES, Finding, worst_first
from cvrnet.audit.image_features import image_features
from cvrnet.audit.measurements import measure
from cvrnet.audit.metadata_findings import patient_findings, source_findings
from cvrnet.audit.model_findings import model_findings
from cvrnet.audit.outcome_findings import outcome_findings
from cvrnet.audit.probes import probe_rows
from cvrnet.audit.several_findings import any_finding, odd_column_findings, several_findings
from cvrnet.audit.shortcuts import finding_probes, shortcut_findings
from cvrnet.audit.wrong_labels import wrong_label_findings
from cvrnet.audit.wrong_pictures import wrong_picture_findings
from cvrnet.data import DataError, Record, check_classes, scan_records
from cvrnet.data.data_set import DataPath, DataSet
from cvrnet.data.finding_columns import odd_columns
from cvrnet.data.finding_labels import SOME_FINDING, without_names
from cvrnet.data.findings import AUTO, finding_truth, label_findings, learnable_findings, several_findings_in
from cvrnet.data.lung_finder import LungFinder
from cvrnet.data.outcomes import NO, YES, Course, Outcome, read_course
from cvrnet.data.splits import patient_key
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, write_json, write_sheet, write_text
from cvrnet.formatting import count
from cvrnet.runs.layout import AUDIT
from cvrnet.runs.read import read_json

TABLES = {
    "label-source": "label-by-source",
    "independent-source": "label-by-source",
    "after-event": "films-after-the-event",
    "patient-share": "patients-of-many-images",
    "patient-splits": "patients-in-several-splits",
    "patient-labels": "patients-in-several-labels",
    "patient-sources": "patients-in-several-sources",
    "model-sources": "model-by-source",
    "model-lung-masks": "unusable-lung-masks",
}
"""Code of a result (`Finding`) -> name of its CSV file, without .csv. For any other code, the name is the code."""


def read_audited(
    data: DataPath,
    say: Callable[[str], object] = lambda line: None,
    findings: Sequence[str] = (),
    uncertain: str = "ignore",
) -> tuple[list[Record], list[str], list[str]]:
    """Read the images that can be audited; also return a line for each unusable row, and the names of the findings.

    Unlike `cvrnet.data.read_records`, this function accepts a patient in two splits (the audit reports such patients)
    and a data set of one class. ``say`` is as in `read_records`.

    Images have several findings if ``findings`` is given (names, or ``("auto",)``), if labels of a manifest are like
    ``Edema|Effusion``, or if a manifest has no labels, but columns of 1 and 0. Then images without a known finding are
    left out, and the others are labelled with their findings. Else each image has one label, and no name is returned.

    Raises:
        DataError: No image is left, or a cell of a finding or a label is wrong (see `cvrnet.data.findings`).
        UserError: The data set lacks a finding in ``findings``, or no image has a known value for the findings.
    """
    settings: dict[str, Any] = {"min_classes": 1, "allow_shared_patients": True}
    records, problems = scan_records(data, say=say, labelled=not findings, **settings)
    names = list(findings)
    found: Sequence[Record] = ()
    if problems and not findings and DataSet.of(data).is_manifest:
        found, other_problems = scan_records(data, labelled=False, **settings)
        if several_findings_in(found):
            records, problems, names = found, other_problems, [AUTO]
            say("Images may have several findings: each finding is checked by itself")
    if names:
        names, truth, _ = learnable_findings(records, names, uncertain, least=0)
        records = label_findings(records, names, truth)
        records = [record for record in records if record.label]
        if not records and not problems:
            raise UserError(f"{data}: no image has a known value for {', '.join(names)}; expected cells of 1 or 0")
    if not records:
        odd = [] if names else list(odd_columns(found).values())
        raise DataError([*odd, *problems], data)
    return records, problems, names


def read_outcome_audited(
    data: DataPath, column: str, say: Callable[[str], object] = lambda line: None
) -> tuple[list[Record], list[str], Course]:
    """Read the images that can be audited, and label each ``yes`` or ``no``: whether its patient had the event.

    ``column`` names the column with the day of the event, or with yes and no. Also return a line for each row or
    patient that cannot be used, and the `Course` (the patients' known events). Images from after the event are kept;
    images of patients whose outcome is not known are left out.

    Raises:
        DataError: No image is left.
        UserError: The data set lacks the column, or the column cannot be used (see `cvrnet.data.outcomes.read_course`).
    """
    records, problems = scan_records(data, say=say, labelled=False, allow_shared_patients=True)
    if not records:
        raise DataError(problems, data)
    course, wrong = read_course(records, Outcome(column))
    fates = [course.fates.get(patient_key(record.patient_id, record.name)) for record in records]
    pairs = zip(records, fates, strict=True)
    labelled = [replace(record, label=YES if fate.event else NO) for record, fate in pairs if fate is not None]
    if not labelled:
        raise DataError([*problems, *wrong], data)
    return labelled, [*problems, *wrong], course


def audit(
    records: Sequence[Record],
    problems: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
    uncertain: str = "ignore",
    course: Course | None = None,
    seed: int = 0,
    workers: int = 2,
    examination: Examination | None = None,
    any_body_part: bool = False,
    features: bool = True,
    finder: LungFinder | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    step: Callable[[str], object] = lambda name: None,
) -> list[Finding]:
    """Return all results of the audit (`Finding`) about labels, sources, patients and images, the worst first.

    If images may have several radiological findings, such as edema, each radiological finding is checked by itself.
    Some checks need one label for each image: they compare the images with any finding to the images without one.

    Args:
        records: The labelled images.
        problems: One line for each image or row that cannot be used. The audit reports the lines as one result.
        names: The names of the radiological findings, if images may have several (see `read_audited`).
        uncertain: What the value -1 of a finding counts as: ``ignore`` (not known), ``positive`` or ``negative``.
        course: The patients' events; with it, images from the day of the event or later are reported.
        seed: Equal seeds give equal results.
        workers: Number of threads that read images.
        examination: Collects the predictions of a trained model, which are then also audited.
        any_body_part: Also read DICOM files that are not of the chest.
        features: Compute features of the images with a network, to find wrong labels and pictures unlike the others.
        finder: Blacks out everything outside the lungs, or crops the images to the lungs, before the images are
            measured. Features are always computed from whole pictures.
        progress: Called after each image with the number of images read and the total.
        step: Called with the name of each step before the step starts.

    Raises:
        DataError: No image can be read.
        UserError: With ``examination``: an image has a label that the model does not know, or images may have several
            findings, or ``finder`` is given.
    """
    if examination is not None:
        _refuse_examination(records, names, examination)
        if finder is not None:
            raise UserError(
                "--lungs and --model cannot be combined, because a model has its own --lungs setting; leave one out"
            )
        for predictor in examination.models:
            predictor.use_masks(records)
    records = [r for r in records if r.label] if names else records  # without a label, no finding has a known value
    findings = _label_findings(records, names, uncertain, course) if records else []
    with tempfile.TemporaryDirectory(prefix="cvrnet-audit-") as folder:
        step("reading images")
        measured, unreadable = measure(records, Path(folder), workers, examination, progress, any_body_part, finder)
        lines = [*problems, *(record.problem(reason) for record, reason in unreadable)]
        if not measured.records:
            raise DataError(lines or ["no images"], "the data set")
        if lines:
            findings.append(_unusable(lines, tuple(record.name for record, _ in unreadable)))
        if examination is not None:
            findings += model_findings(examination, seed)
        findings += depth_findings(measured)
        step("looking at labels and pictures")
        vectors = image_features(measured.records, any_body_part) if features else "features were switched off"
        findings += wrong_picture_findings(measured, vectors, seed)
        single = replace(measured, records=without_names(measured.records)) if names else measured
        findings += wrong_label_findings(single, vectors, seed)
        step("looking for copies")
        findings += duplicate_findings(measured, seed=seed, workers=workers)
        step("probing for shortcuts")
        findings += shortcut_findings(single, seed)
        if names:
            findings += finding_probes(measured, names, finding_truth(measured.records, names, uncertain), seed)
    return worst_first(findings)


def _label_findings(
    records: Sequence[Record], names: Sequence[str], uncertain: str, course: Course | None
) -> list[Finding]:
    """Return the results that need only the manifest, not the pictures."""
    if not names:
        foretold = [] if course is None else outcome_findings(course, records)
        return foretold + source_findings(records) + patient_findings(records)
    single = without_names(records)
    found = source_findings(single, SOME_FINDING.capitalize()) + patient_findings(single)
    found += several_findings(records, names, finding_truth(records, names, uncertain))
    return [*found, any_finding(single), *odd_column_findings(records, names)]


def _refuse_examination(records: Sequence[Record], names: Sequence[str], examination: Examination) -> None:
    if names:
        raise UserError(
            "the images may have several findings, but --model needs images with one label each; leave --model out"
        )
    check_classes((r.label for r in records), examination.classes)


def _unusable(lines: Sequence[str], names: tuple[str, ...]) -> Finding:
    """Return the result about unusable rows and images; ``names`` are the images whose file cannot be read."""
    sentence = f"{count(len(lines), 'row or image', 'rows or images')} cannot be used: {lines[0]}"
    sentence += " and others." if len(lines) > 1 else "."
    figures = {"table": [{"problem": line} for line in lines]}
    return Finding("unusable-images", "warning", sentence, figures, names, "Correct or remove these rows and images.")


def write_audit(
    folder: str | Path,
    findings: Sequence[Finding],
    records: Sequence[Record],
    title: str,
    tables: str | Path | None = None,
    names: Sequence[str] = (),
) -> None:
    """Write audit.html, findings.csv, a CSV file for each result that has a table and, last, audit.json.

    The tables of all probes are written to one file, probes.csv. The folder is made if missing. If the folder
    ``tables`` is given, all CSV files go there. ``title`` is the name of the data set. ``names`` are the names of the
    radiological findings, as for `audit`. ``records`` are the images; audit.html shows thumbnails of some of them.
    """
    folder = Path(folder)
    tables = Path(tables or folder)
    write_sheet(tables / "findings.csv", (finding.row() for finding in findings), COLUMNS)
    probes = probe_rows(findings)
    for finding in findings:
        rows = finding.figures.get("table")
        if rows is not None and "target" not in rows[0]:
            write_sheet(tables / f"{TABLES.get(finding.code, finding.code)}.csv", rows)
    if probes:
        probes.sort(key=lambda row: (row["target"] != "label", row["scope"] != "all", row["scope"], -row["auc"]))
        write_sheet(tables / "probes.csv", probes)
    write_text(folder / "audit.html", render_page(findings, records, title, names))
    # Written last: a resumed run takes an existing audit.json as a sign that the audit is complete.
    write_json(
        folder / AUDIT,
        {
            "data": title,
            "data_sha256": hash_data(records),
            "images": len(records),
            **{severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES},
            "findings": [asdict(f) for f in findings],
        },
    )


def check_audit_folder(folder: Path, overwrite: bool) -> bool:
    """Return whether a folder holds an earlier audit, which the new audit will replace.

    Raises:
        UserError: The folder has an audit.json, and ``overwrite`` is False or the file was not written by an audit.
    """
    path = folder / AUDIT
    if not path.exists():
        return False
    if not overwrite:
        raise UserError(f"{path} exists; --overwrite replaces it")
    if not {"data_sha256", "findings"} <= read_json(path).keys():
        raise UserError(f"{path} was not written by `cvrnet audit`; choose another folder")
    return True


def read_severe(folder: str | Path, records: Sequence[Record]) -> list[str] | None:
    """Return the severe problems in a folder's audit.json, as sentences; None if it is missing or of other images."""
    path = Path(folder) / AUDIT
    if not path.is_file():
        return None
    value = read_json(path)
    if value.get("data_sha256") != hash_data(records):
        return None
    with damaged_files(path):
        return [finding["sentence"] for finding in value["findings"] if finding["severity"] == "severe"]


def hash_data(records: Sequence[Record]) -> str:
    """Return the SHA-256 of the inputs of an audit: the records, and the size and modification time of each file."""
    digest = hashlib.sha256()
    for r in records:
        status = r.path.stat()
        values = r.name, r.label, r.source, r.patient_id, r.split, str(status.st_size), str(status.st_mtime_ns)
        digest.update("\x1f".join(values).encode() + b"\n")
    return digest.hexdigest()
