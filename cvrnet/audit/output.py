"""The audit's files: audit.json, one CSV a table, and audit.html."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvrnet.audit.audit_page import render_page
from cvrnet.audit.findings import COLUMNS, SEVERITIES, Finding
from cvrnet.data import Record
from cvrnet.files import damaged_files, write_csv, write_json, write_text

AUDIT = "audit.json"
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


def write_audit(
    folder: str | Path,
    findings: Sequence[Finding],
    records: Sequence[Record],
    title: str,
    tables: str | Path | None = None,
) -> None:
    """Write audit.json, audit.html, findings.csv and a CSV for each table into a folder, audit.json last.

    Args:
        folder: Where to; made if missing.
        findings: What `audit` gave.
        records: The images it was given, for the thumbnails.
        title: The data set's name.
        tables: Another folder for the CSVs.
    """
    folder = Path(folder)
    tables = folder if tables is None else Path(tables)
    write_csv(tables / "findings.csv", (finding.row() for finding in findings), COLUMNS)
    for finding in findings:
        if finding.code in TABLES and "table" in finding.figures:
            write_csv(tables / TABLES[finding.code], finding.figures["table"])
    if probes := probe_rows(findings):
        write_csv(tables / "probes.csv", probes)
    write_text(folder / "audit.html", render_page(findings, records, title))
    summary: dict[str, Any] = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    value: dict[str, Any] = {
        "data": title,
        "data_sha256": hash_data(records),
        "images": len(records),
        **summary,
        "findings": [asdict(f) for f in findings],
    }
    write_json(folder / AUDIT, value)


def read_severe(folder: str | Path, records: Sequence[Record]) -> list[str] | None:
    """The severe findings' sentences of the audit that a folder holds; None if it holds none of these images."""
    path = Path(folder) / AUDIT
    if not path.is_file():
        return None
    with damaged_files(path):
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("data_sha256") != hash_data(records):
            return None
        return [finding["sentence"] for finding in value["findings"] if finding["severity"] == "severe"]


def hash_data(records: Sequence[Record]) -> str:
    """SHA-256 over what an audit depends on: the records, and the size and time of change of each file."""
    digest = hashlib.sha256()
    for r in records:
        status = r.path.stat()
        values = r.name, r.label, r.source, r.patient_id, r.split, str(status.st_size), str(status.st_mtime_ns)
        digest.update("\x1f".join(values).encode() + b"\n")
    return digest.hexdigest()


def probe_rows(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """All probes' rows, of labels first."""
    rows = [row for f in findings if "probe" in f.code or "within" in f.code for row in f.figures.get("table", ())]
    return sorted(rows, key=lambda row: (row["target"] != "label", row["scope"] != "all", row["scope"], -row["auc"]))
