"""Make the report's section on unusual images: the share of each set and source that is unlike the training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cvrnet.html import Table, render
from cvrnet.metrics.bootstrap import share_interval
from cvrnet.metrics.novelty import FALSE_ALARMS, is_marked
from cvrnet.report.page import Section
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.report.results import Results
from cvrnet.runs.predictions import AnyTable

Row = dict[str, Any]


def unlike_training_section(results: Results) -> Section | None:
    """Make the section for `cvrnet.report.write_report`; None if predictions.csv has no column ``unlike_training``."""
    rows = [row for name, table in results.judged.items() for row in _rows(name, table)]
    if not rows:
        return None
    cells = [
        [
            results.set_title(row["set"]),
            row["source"] or "all",
            *(cell(row, key) for key in ("images", "patients", "marked")),
        ]
        for row in rows
    ]
    table = Table(["Set", "Source", "Images", "Patients", "Marked as unusual"], cells)
    html = render("unlike_training.html.jinja", table=table, share=FALSE_ALARMS)
    return Section("Images unlike the training images", html, {"unlike_training": rows})


def _rows(name: str, table: AnyTable) -> Iterator[Row]:
    """Yield a row for all images of a set, then a row for each source.

    Images without a value in the column ``unlike_training`` of predictions.csv do not count.
    """
    if table.unlike is None:
        return
    known, sources = ~np.isnan(table.unlike), np.array(table.sources)
    named = sorted({*sources[known].tolist()} - {""})
    for source in ("", *(named if len(named) > 1 else ())):
        chosen = np.flatnonzero(known & (sources == source) if source else known)
        groups = [table.groups[i] for i in chosen]
        share, bounds = share_interval(is_marked(table.unlike[chosen]), groups)
        row = {"set": name, "source": source, "images": len(chosen), "patients": len(set(groups))}
        yield row | with_interval("marked", share, bounds)
