"""Make audit.html: one file that needs no network connection, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cvrnet.audit.findings import SEVERITIES, Finding
from cvrnet.audit.probes import WHAT, probe_rows
from cvrnet.data import Record, read_image
from cvrnet.data.finding_labels import SEPARATOR
from cvrnet.formatting import count
from cvrnet.html import Picture, Table, render, small_picture

MAX_ROWS = 40  # maximum number of rows of a result's table on the page
MAX_NAMES = 15  # maximum number of rows, and of columns, in the table of radiological findings that occur together

Row = Mapping[str, Any]


def render_page(findings: Sequence[Finding], records: Sequence[Record], title: str, names: Sequence[str] = ()) -> str:
    """Return the page as HTML: the results in the given order, but the notes last.

    Results about copies, wrong labels and wrong pictures have thumbnails of their images, made from ``records``.
    ``findings`` are the results of the audit. If images may have several radiological findings, such as edema,
    ``names`` are the names of these radiological findings.
    """
    by_name = {record.name: record for record in records}
    classes = count(len({record.label for record in records}), "class", "classes")
    return render(
        "audit.html.jinja",
        data=title,
        records=records,
        labels=count(len(names), "finding") if names else classes,
        severities=SEVERITIES,
        findings=findings,
        table=_table,
        max_rows=MAX_ROWS,
        count=count,
        thumbnail=lambda name: _thumbnail(by_name[name]),
        ranked=lambda finding: [_ranked(by_name[row["path"]], row) for row in finding.figures["table"][:MAX_ROWS]],
        panels=_probe_panels(findings),
    )


def _table(finding: Finding) -> tuple[Table | None, bool]:
    """Return a result's table, or None if the page shows none; and whether a click is needed to open the table."""
    rows = finding.figures.get("table", [])
    if not rows or finding.code.endswith("-duplicates") or "target" in rows[0]:  # the panels show the probes
        return None, False
    if finding.code in ("label-source", "independent-source"):
        return _label_by_source(rows), False
    if finding.code == "co-occurrence":
        return _together(finding.figures["images"], rows), False
    if finding.code == "finding-sources":
        return _finding_by_source(rows), False
    cells = [[f"{v:.2f}" if isinstance(v, float) else str(v).replace("|", ", ") for v in row.values()] for row in rows]
    return Table([str(key).replace("_", " ") for key in rows[0]], cells[:MAX_ROWS]), True


def _label_by_source(rows: Sequence[Row]) -> Table:
    """Make a table of the numbers of images and patients for each label (rows) and source (columns)."""
    sources, labels = sorted({row["source"] for row in rows}), sorted({row["label"] for row in rows})
    cells = {(row["label"], row["source"]): f"{row['images']:,} ({row['patients']:,})" for row in rows}
    titles = ["images (patients)", *(source or "(none)" for source in sources)]
    return Table(titles, [[label, *(cells[label, source] for source in sources)] for label in labels])


def _together(images: Mapping[str, int], rows: Sequence[Row]) -> Table:
    """Make a table that shows how often the most frequent radiological findings occur together.

    There is a row and a column for each finding. Of the images that have the row's finding, a cell shows the share that
    also have the column's finding.
    """
    names = sorted(images, key=lambda name: -images[name])[:MAX_NAMES]
    both = {
        pair: row["both"] for row in rows for pair in ((row["first"], row["second"]), (row["second"], row["first"]))
    }
    cells = [
        [f"{name} ({images[name]:,})"]
        + ["" if name == other else f"{both.get((name, other), 0) / max(images[name], 1):.0%}" for other in names]
        for name in names
    ]
    return Table(["finding (images): share that also has", *names], cells)


def _finding_by_source(rows: Sequence[Row]) -> Table:
    """Make a table with a row for each radiological finding and a column for each source.

    Of the source's images for which the finding is known, a cell shows the share that have the finding.
    """
    cells = {(row["finding"], row["source"]): f"{row['share']:.1%} of {row['known']:,}" for row in rows}
    names, sources = list(dict.fromkeys(row["finding"] for row in rows)), sorted({row["source"] for row in rows})
    titles = ["share with the finding, of the images where it is known", *(source or "(none)" for source in sources)]
    return Table(titles, [[name, *(cells.get((name, source), "") for source in sources)] for name in names[:MAX_ROWS]])


def _thumbnail(record: Record) -> tuple[Picture, str, list[str]]:
    """Return a small copy of the image, its name, and one line with its label, source, patient and split."""
    facts = [
        record.label.replace(SEPARATOR, ", "),
        record.source,
        record.patient_id and f"patient {record.patient_id}",
        record.split,
    ]
    return small_picture(read_image(record.path, any_body_part=True)), record.name, [", ".join(filter(None, facts))]


def _ranked(record: Record, row: Row) -> tuple[Picture, str, list[str]]:
    """Return the thumbnail of a picture or label that is probably wrong; its last line says what is wrong."""
    picture, name, lines = _thumbnail(record)
    wrong = row.get("problem") or f"probably {row['probable_label']} ({row['its_probability']:.2f})"
    return picture, name, [*lines, wrong]


def _probe_panels(findings: Sequence[Finding]) -> dict[str, list[Row]]:
    """Map the title of each panel of the figure to its probes' rows.

    The panels of probes that predict the source come last. Among the others, those on the whole data set come first.
    """
    panels: dict[str, list[Row]] = {}
    for row in sorted(probe_rows(findings), key=lambda row: list(WHAT).index(row["probe"])):
        where = "whole data set" if row["scope"] == "all" else f"within {row['scope']}"
        panels.setdefault(f"{row['target'].capitalize()}, {where}", []).append(row)
    titles = sorted(panels, key=lambda title: (title.startswith("Source"), not title.endswith("set"), title))
    return {title: panels[title] for title in titles}
