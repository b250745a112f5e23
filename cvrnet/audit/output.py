"""The audit's files: audit.json, one CSV a table, and audit.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvrnet.audit.findings import COLUMNS, SEVERITIES, Finding
from cvrnet.audit.page import render_page
from cvrnet.data import Record
from cvrnet.files import write_csv, write_json, write_text

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
}


def write_audit(folder: str | Path, findings: Sequence[Finding], records: Sequence[Record], title: str) -> None:
    """Write audit.json, audit.html, findings.csv and a CSV for each table into a folder, audit.json last.

    Args:
        folder: Where to; made if missing.
        findings: What `audit` gave.
        records: The images it was given, for the thumbnails.
        title: The data set's name.
    """
    folder = Path(folder)
    write_csv(folder / "findings.csv", (finding.row() for finding in findings), COLUMNS)
    for finding in findings:
        if finding.code in TABLES and "table" in finding.figures:
            write_csv(folder / TABLES[finding.code], finding.figures["table"])
    if probes := probe_rows(findings):
        write_csv(folder / "probes.csv", probes)
    write_text(folder / "audit.html", render_page(findings, records, title))
    summary: dict[str, Any] = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    value: dict[str, Any] = {
        "data": title,
        "images": len(records),
        **summary,
        "findings": [asdict(f) for f in findings],
    }
    write_json(folder / AUDIT, value)


def probe_rows(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """All probes' rows, of labels first."""
    rows = [row for f in findings if "probe" in f.code or "within" in f.code for row in f.figures.get("table", ())]
    return sorted(rows, key=lambda row: (row["target"] != "label", row["scope"] != "all", row["scope"], -row["auc"]))
