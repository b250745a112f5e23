"""Make the report's section of a calibration: the scores before and after the calibration."""

from __future__ import annotations

from collections.abc import Sequence

from cvrnet.formatting import interval
from cvrnet.html import Table, render
from cvrnet.report.page import Section
from cvrnet.report.report_tables import Row


def before_after_section(rows: Sequence[Row], sentences: Sequence[str]) -> Section:
    """Make the section for `cvrnet.report.write_report`: a table of ``rows``, and ``sentences`` about the table."""
    cells = [
        [
            row["score"].replace("_", " "),
            row["class"],
            row["decision"],
            row["images"],
            *(
                interval(*(row[f"{when}{end}"] for end in ("", "_low", "_high")))
                for when in ("before", "after", "change")
            ),
        ]
        for row in rows
    ]
    table = Table(["Score", "Class", "Decision", "Images", "Before", "After", "Change"], cells)
    html = render("before_after.html.jinja", table=table, sentences=sentences)
    return Section("Before and after the calibration", html, {"before_after": rows})
