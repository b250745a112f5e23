"""audit.html: one file that needs no network, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cvrnet.audit.findings import SEVERITIES, Finding, count
from cvrnet.audit.probes import WHAT
from cvrnet.data import Record, read_image
from cvrnet.html import details, page, paragraph, table, thumbnail

MAX_CLUSTERS = 60
MAX_FILES = 30
MAX_ROWS = 40


def render_page(findings: Sequence[Finding], records: Sequence[Record], title: str) -> str:
    """The page as HTML.

    Args:
        findings: In the order in which to show them.
        records: The images that the findings name, for thumbnails.
        title: The data set's name.
    """
    of_name = {record.name: record for record in records}
    counts = ", ".join(f"{sum(f.severity == s for f in findings)} {s}" for s in SEVERITIES)
    facts = f"{count(len(records), 'image')}, {count(len({r.label for r in records}), 'class', 'classes')}, "
    facts += f"{count(len({r.source for r in records} - {''}), 'source')}. Findings: {counts}."
    parts = [
        *(_finding(finding, of_name) for finding in findings if finding.severity != "note"),
        "<h2>Notes</h2>",
        *(_finding(finding, of_name) for finding in findings if finding.severity == "note"),
        _probe_figure(findings),
    ]
    name = f"Audit of {title}"
    return page(name, "What can this data set show?", f"{name}: {facts}", parts, made_by="cvrnet audit")


def _finding(finding: Finding, of_name: Mapping[str, Record]) -> str:
    parts = [
        f'<section class="{finding.severity}"><h3><span class="tag">{finding.severity}</span> '
        f"{escape(finding.sentence)}</h3>"
    ]
    if finding.advice:
        parts.append(f"<p><b>What to do:</b> {escape(finding.advice)}</p>")
    rows = finding.figures.get("table", [])
    if rows and finding.code in ("label-source", "independent-source"):
        parts.append(_label_by_source(rows))
    elif finding.code.endswith("-duplicates"):
        parts.append(_clusters(finding.figures.get("clusters", []), of_name))
    elif rows and ("probe" not in finding.code and "within" not in finding.code):
        parts.append(details(count(len(rows), "row"), _table(rows[:MAX_ROWS], len(rows))))
    if finding.files and not finding.code.endswith("-duplicates"):
        more = len(finding.files) - MAX_FILES
        names = "".join(f"<li>{escape(name)}</li>" for name in finding.files[:MAX_FILES])
        names += f"<li>and {more} more, in audit.json</li>" if more > 0 else ""
        parts.append(details(count(len(finding.files), "file"), f"<ul>{names}</ul>"))
    return "\n".join([*parts, f'<p class="code">{escape(finding.code)}</p></section>'])


def _label_by_source(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    sources, labels = sorted({r["source"] for r in rows}), sorted({r["label"] for r in rows})
    cells = {(r["label"], r["source"]): r for r in rows}
    wide = [
        {"images (patients)": label}
        | {
            source or "(none)": f"{cells[label, source]['images']:,} ({cells[label, source]['patients']:,})"
            for source in sources
        }
        for label in labels
    ]
    return _table(wide, len(wide))


def _table(rows: Sequence[Mapping[str, Any]], total: int) -> str:
    shown = [{str(key).replace("_", " "): _cell(value) for key, value in row.items()} for row in rows]
    rest = f"and {total - len(rows):,} more, in the CSV file"
    return table(shown) + (paragraph(rest) if total > len(rows) else "")


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("|", ", ")


def _clusters(clusters: Sequence[Sequence[str]], of_name: Mapping[str, Record]) -> str:
    parts = []
    for number, names in enumerate(clusters[:MAX_CLUSTERS], start=1):
        figures = "".join(_thumbnail(of_name[name]) for name in names[:12])
        parts.append(f'<div class="cluster"><h4>Cluster {number}</h4><div class="row">{figures}</div></div>')
    if len(clusters) > MAX_CLUSTERS:
        parts.append(f"<p>and {len(clusters) - MAX_CLUSTERS:,} more clusters, in the CSV file</p>")
    return f'<div class="clusters">{"".join(parts)}</div>'


def _thumbnail(record: Record) -> str:
    facts = [record.label, record.source, record.patient_id and f"patient {record.patient_id}", record.split]
    return thumbnail(read_image(record.path), record.name, [", ".join(fact for fact in facts if fact)])


def _probe_figure(findings: Sequence[Finding]) -> str:
    """AUC with interval of every probe, as inline SVG, one panel for each target and scope."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for finding in findings:
        for row in finding.figures.get("table", ()):
            if "probe" in row and "target" in row:
                where = "whole data set" if row["scope"] == "all" else f"within {row['scope']}"
                panels.setdefault(f"{row['target'].capitalize()}, {where}", []).append(row)
    if not panels:
        return ""
    order = sorted(panels, key=lambda name: (name.startswith("Source"), not name.endswith("set"), name))
    return (
        "<h2>Shortcut probes</h2><p>Macro one-against-the-others AUC of a simple model that sees one thing only, "
        "cross-validated by patient, with its 95 % interval (bootstrap over patients); the open ring is the same model "
        "on permuted labels. Border, corners, size, format and compression hold no lung: there, more than 0.5 is a "
        "shortcut.</p><div class='panels'>" + "".join(_panel(name, panels[name]) for name in order) + "</div>"
    )


def _panel(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    left, width, step, top = 128, 200, 24, 8
    rows = sorted(rows, key=lambda row: list(WHAT).index(row["probe"]))
    height = top + step * len(rows)

    def x(auc: float) -> float:
        return left + width * (min(max(auc, 0.3), 1.0) - 0.3) / 0.7

    marks = []
    for tick in (0.3, 0.5, 0.75, 1.0):
        dash = "" if tick == 0.5 else ' stroke-dasharray="2 3"'
        marks.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height}" stroke="#888"{dash}/>')
        marks.append(f'<text x="{x(tick):.1f}" y="{height + 16}" text-anchor="middle">{tick:g}</text>')
    for number, row in enumerate(rows):
        y = top + step * number + step / 2
        marks += [
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(row["probe"])}</text>',
            f'<circle cx="{x(row["auc_permuted"]):.1f}" cy="{y}" r="3.5" fill="none" stroke="#666"/>',
            f'<line x1="{x(row["auc_low"]):.1f}" x2="{x(row["auc_high"]):.1f}" y1="{y}" y2="{y}" '
            'stroke="#0072B2" stroke-width="3"/>',
            f'<circle cx="{x(row["auc"]):.1f}" cy="{y}" r="4.5" fill="#0072B2"/>',
            f'<text x="{left + width + 12}" y="{y + 4}">{row["auc"]:.2f}</text>',
        ]
    return (
        f'<figure class="panel"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {left + width + 50} {height + 36}" role="img" aria-label="{escape(title)}: AUC">'
        f'{"".join(marks)}<text x="{left + width / 2}" y="{height + 32}" text-anchor="middle">AUC</text></svg></figure>'
    )
