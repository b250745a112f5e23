"""The files that an audit leaves in a folder: audit.json, audit.html and one CSV for each table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cvrnet.audit.audit_page import render_page
from cvrnet.audit.findings import COLUMNS, SEVERITIES, Finding
from cvrnet.data import Record
from cvrnet.files import damaged_files, write_csv, write_json, write_text
from cvrnet.runs.layout import AUDIT
from cvrnet.runs.read import read_json

TABLES = {
    "label-source": "label-by-source.csv",
    "independent-source": "label-by-source.csv",
    "patient-splits": "patients-in-several-splits.csv",
    "patient-labels": "patients-in-several-labels.csv",
    "patient-sources": "patients-in-several-sources.csv",
    "exact-duplicates": "exact-duplicates.csv",
    "near-duplicates": "near-duplicates.csv",
    "floor": "floor.csv",
    "unusable-images": "unusable-images.csv",
    "model-sources": "model-by-source.csv",
    "model-without-lungs": "model-without-lungs.csv",
    "model-lung-masks": "unusable-lung-masks.csv",
}
"""The file of each finding's table, by the finding's code."""


def write_audit(
    folder: str | Path,
    findings: Sequence[Finding],
    records: Sequence[Record],
    title: str,
    tables: str | Path | None = None,
) -> None:
    """Write audit.html, findings.csv, one CSV for each table and, last, audit.json.

    Args:
        folder: The folder to write to; it is made if missing.
        findings: The findings of `audit`.
        records: The images that were audited, for thumbnails.
        title: The data set's name.
        tables: Another folder for the CSVs.
    """
    folder = Path(folder)
    tables = folder if tables is None else Path(tables)
    write_csv(tables / "findings.csv", (finding.row() for finding in findings), COLUMNS)
    for finding in findings:
        if finding.code in TABLES and "table" in finding.figures:
            write_csv(tables / TABLES[finding.code], finding.figures["table"])
    if probes := _probe_rows(findings):
        write_csv(tables / "probes.csv", probes)
    write_text(folder / "audit.html", render_page(findings, records, title))
    # Last: audit.json tells a resumed run that the audit is complete.
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


def read_severe(folder: str | Path, records: Sequence[Record]) -> list[str] | None:
    """The sentences of the severe findings in a folder's audit.json; None if it has no audit of these images."""
    path = Path(folder) / AUDIT
    if not path.is_file():
        return None
    value = read_json(path)
    if value.get("data_sha256") != hash_data(records):
        return None
    with damaged_files(path):
        return [finding["sentence"] for finding in value["findings"] if finding["severity"] == "severe"]


def hash_data(records: Sequence[Record]) -> str:
    """SHA-256 of what an audit depends on: the records, and the size and modification time of each file."""
    digest = hashlib.sha256()
    for r in records:
        status = r.path.stat()
        values = r.name, r.label, r.source, r.patient_id, r.split, str(status.st_size), str(status.st_mtime_ns)
        digest.update("\x1f".join(values).encode() + b"\n")
    return digest.hexdigest()


def _probe_rows(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The rows of all probes: those of labels first, within them those of the whole data set."""
    rows = [row for f in findings if "probe" in f.code or "within" in f.code for row in f.figures.get("table", ())]
    return sorted(rows, key=lambda row: (row["target"] != "label", row["scope"] != "all", row["scope"], -row["auc"]))
