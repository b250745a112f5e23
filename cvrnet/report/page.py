"""Render the page of every report: the parts that all reports share, and further sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvrnet.data.data_set import DataSet
from cvrnet.figures.plot_learning import best_row
from cvrnet.html import Picture, figure_picture, render
from cvrnet.report import headline
from cvrnet.report.checklist import AUTHOR, checklist
from cvrnet.report.report_tables import Row, settings_table
from cvrnet.report.results import Results
from cvrnet.runs.layout import FIGURES


@dataclass(frozen=True)
class Section:
    """A further section of a report: a section that not every report has."""

    title: str  #: plain text, not HTML
    html: str  #: the content
    #: Name of a file in tables/ (without .csv) -> its rows.
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def render_page(template: str, results: Results, further: Sequence[Section], **values: Any) -> str:
    """Render the page of a report from a template; ``values`` are further variables that this template needs."""

    def figure(name: str) -> Picture:
        return figure_picture((results.folder / FIGURES / f"{name}.png").read_bytes())

    return render(
        template,
        results=results,
        run=results.run,
        best_epochs=[int(row["epoch"]) for row in map(best_row, results.histories) if row is not None],
        headline=headline,
        figure=figure,
        drawn={path.stem for path in (results.folder / FIGURES).glob("*.png")},  # version 0.1 drew fewer figures
        settings=settings_table(results),
        further=further,
        checklist=checklist(results),
        author=AUTHOR,
        **values,
    )


def image_path(run: Mapping[str, Any], name: str) -> Path:
    """Return the expected location of an image, from its path in the data set and the data set's path in run.json."""
    data = DataSet.of_run(run)
    return data.image_folder() / name if data else Path()  # a run from the Hub names no data set
