"""audit.html: one file that needs no network, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cvrnet.audit.findings import SEVERITIES, Finding, count
from cvrnet.audit.probes import WHAT
from cvrnet.data import Record, read_image
from cvrnet.html import Picture, Table, render, small_picture

MAX_CLUSTERS = 60
MAX_FILES = 30
MAX_ROWS = 40
MAX_MEMBERS = 12  # images shown of a cluster of duplicates

Row = Mapping[str, Any]


def render_page(findings: Sequence[Finding], records: Sequence[Record], title: str) -> str:
    """The page as HTML.

    Args:
        findings: In the order in which to show them.
        records: The images that the findings name, for thumbnails.
        title: The data set's name.
    """
    return render(
        "audit.html.jinja",
        data=title,
        records=records,
        severities=SEVERITIES,
        findings=findings,
        table=_table,
        count=count,
        thumbnail=partial(_thumbnail, {record.name: record for record in records}),
        panels=_probe_panels(findings),
        panel_width=LEFT + WIDTH + 50,
        max_clusters=MAX_CLUSTERS,
        max_members=MAX_MEMBERS,
        max_files=MAX_FILES,
        max_rows=MAX_ROWS,
    )


def _table(finding: Finding) -> tuple[Table | None, bool]:
    """The finding's table as printed, if it is to be shown; and whether it is folded in until a click opens it."""
    rows = finding.figures.get("table", [])
    if not rows or finding.code.endswith("-duplicates") or "probe" in finding.code or "within" in finding.code:
        return None, False
    if finding.code in ("label-source", "independent-source"):
        return _label_by_source(rows), False

    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v).replace("|", ", ") for v in row.values()] for row in rows]
    return Table([str(key).replace("_", " ") for key in rows[0]], cells[:MAX_ROWS]), True


def _label_by_source(rows: Sequence[Row]) -> Table:
    """Images and patients of each label (rows) and source (columns)."""
    sources, labels = sorted({row["source"] for row in rows}), sorted({row["label"] for row in rows})
    cells = {(row["label"], row["source"]): f"{row['images']:,} ({row['patients']:,})" for row in rows}
    titles = ["images (patients)", *(source or "(none)" for source in sources)]
    return Table(titles, [[label, *(cells[label, source] for source in sources)] for label in labels])


def _thumbnail(records: Mapping[str, Record], name: str) -> tuple[Picture, str, list[str]]:
    """The image, its name, and a line of what is known about it."""
    record = records[name]
    facts = [record.label, record.source, record.patient_id and f"patient {record.patient_id}", record.split]
    return small_picture(read_image(record.path)), name, [", ".join(filter(None, facts))]


LEFT, WIDTH, STEP, TOP = 128, 200, 24, 8  # of a panel: room for names, length of the axis, height of a row, margin
LOWEST = 0.3  # AUC at the axis's left end; 1 at the right


def _probe_panels(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What the figure of the probes shows: for each target and scope its title, and its marks in SVG coordinates."""
    panels: dict[str, list[Row]] = {}
    for finding in findings:
        for row in finding.figures.get("table", ()):
            if "probe" in row and "target" in row:
                where = "whole data set" if row["scope"] == "all" else f"within {row['scope']}"
                panels.setdefault(f"{row['target'].capitalize()}, {where}", []).append(row)
    order = sorted(panels, key=lambda name: (name.startswith("Source"), not name.endswith("set"), name))
    return [_panel(name, sorted(panels[name], key=lambda row: list(WHAT).index(row["probe"]))) for name in order]


def _panel(title: str, rows: Sequence[Row]) -> dict[str, Any]:
    def x(auc: float) -> str:
        return f"{LEFT + WIDTH * (min(max(auc, LOWEST), 1.0) - LOWEST) / (1 - LOWEST):.1f}"

    marks = [
        {
            "y": TOP + STEP * number + STEP / 2,
            "probe": row["probe"],
            "auc": f"{row['auc']:.2f}",
            **{f"x_{key}": x(row[key]) for key in ("auc", "auc_low", "auc_high", "auc_permuted")},
        }
        for number, row in enumerate(rows)
    ]
    return {
        "title": title,
        "height": TOP + STEP * len(rows),
        "ticks": [(x(auc), f"{auc:g}", auc == 0.5) for auc in (LOWEST, 0.5, 0.75, 1.0)],
        "names_at": LEFT - 10,
        "values_at": LEFT + WIDTH + 12,
        "middle": LEFT + WIDTH / 2,
        "marks": marks,
    }
