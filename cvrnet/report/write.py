"""report.html: what a run has shown, in one file that needs no network, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cvrnet.files import damaged_files, write_csv, write_text
from cvrnet.html import page
from cvrnet.report import headline, sections
from cvrnet.report.mistakes import mistakes
from cvrnet.report.results import Results, read_results
from cvrnet.report.sections import Section
from cvrnet.runs.layout import TABLES

REPORT = "report.html"


def write_report(folder: str | Path, further: Sequence[Section] = ()) -> Path:
    """Write `report.html` and `tables/*.csv` from what a run or an evaluation has left in its folder.

    Can be called again at any time, for instance when an audit.json has come to the run.

    Args:
        folder: The run, or what ``cvrnet evaluate`` wrote.
        further: Sections to put before the learning curves.

    Returns:
        The page.

    Raises:
        UserError: The folder holds no finished run, or what it holds is damaged.
    """
    folder = Path(folder)
    with damaged_files(folder):
        return _write(folder, read_results(folder), further)


def _write(folder: Path, results: Results, further: Sequence[Section]) -> Path:
    found = [
        headline.what(results),
        headline.data_set(results),
        sections.papers_table(results),
        sections.confusion(results),
        sections.per_class(results),
        sections.independent(results),
        sections.curves(results),
        sections.calibration(results),
        sections.heads(results),
        sections.sources(results),
        mistakes(results),
        *further,
        sections.learning(results),
        headline.protocol(results),
    ]
    shown = [section for section in found if section is not None]
    for section in shown:
        for name, rows in section.tables.items():
            write_csv(folder / TABLES / f"{name}.csv", rows)
    parts = [f'<div class="part"><h2>{escape(section.title)}</h2>{section.html}</div>' for section in shown]
    title = f"{headline.TITLES[results.kind]}: {headline.model_name(results)} on {headline.data_name(results)}"
    write_text(folder / REPORT, page(title, title, headline.lead(results), parts, made_by="cvrnet"))
    return folder / REPORT
