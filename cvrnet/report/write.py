"""report.html: what a run has shown, in one file that needs no network, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cvrnet.files import damaged_files, write_csv, write_text
from cvrnet.html import Picture, Table, build_table, figure_picture, render
from cvrnet.report import headline
from cvrnet.report import report_tables as tables
from cvrnet.report.mistakes import SHOWN, image_path, mistake_thumbnails
from cvrnet.report.report_tables import OVERALL, Row
from cvrnet.report.results import Results, read_results
from cvrnet.runs.layout import FIGURES, INDEPENDENT, REPORT, TABLES
from cvrnet.scoring.head_accuracy import head_rows


@dataclass(frozen=True)
class Section:
    """A further section of the report.

    Attributes:
        title: As text.
        html: Its content.
        tables: Name of a file in tables/ (without .csv) to its rows.
    """

    title: str
    html: str
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)


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
        results = read_results(folder)
        rows = _rows(results)
        for name, table in rows.items():
            if table:
                write_csv(folder / TABLES / f"{name}.csv", table)
        for section in further:
            for name, given in section.tables.items():
                write_csv(folder / TABLES / f"{name}.csv", given)
        write_text(folder / REPORT, _page(results, rows, further))
    return folder / REPORT


def _rows(results: Results) -> dict[str, list[Row]]:
    """The rows of each file in tables/; empty where the run has nothing of the kind."""
    return {
        "floor": headline.floor_rows(results),
        "results": list(tables.paper_rows(tables.paper_entries(results))),
        "classes": tables.class_rows(results.scores),
        "overall": tables.overall_rows(results.scores),
        f"classes_{INDEPENDENT}": tables.class_rows(results.independent) if results.independent else [],
        "heads": head_rows(results.folds),
        "sources": tables.source_rows(results) if results.sources else [],
        "mistakes": tables.mistake_rows(results.predictions),
    }


def _page(results: Results, rows: Mapping[str, list[Row]], further: Sequence[Section]) -> str:
    title, printed, mistakes = headline.title(results), _printed(results, rows), rows["mistakes"][:SHOWN]

    def figure(name: str) -> Picture:
        return figure_picture((results.folder / FIGURES / f"{name}.png").read_bytes())

    return render(
        "report.html.jinja",
        title=title,
        heading=title,
        lead=headline.lead(results),
        made_by="cvrnet",
        results=results,
        run=results.run,
        rows=rows,
        tables=printed,
        facts=headline.facts(results),
        seen_sentence=headline.seen_sentence(results.run.get("seen_images") or 0),
        not_new=headline.NOT_NEW,
        independent_sources=headline.independent_sources(results),
        severe=headline.severe_findings(results.audit),
        against_floor=headline.against_floor(rows["floor"]) if rows["floor"] else "",
        too_few_patients=tables.too_few_patients,
        overall=dict(zip(OVERALL, (value for _, value in printed["overall"].rows), strict=True)),
        mistakes=mistake_thumbnails(results.run, mistakes),
        images_are_gone=not any(image_path(results.run, row["path"]).is_file() for row in mistakes),
        figure=figure,
        further=further,
    )


def _printed(results: Results, rows: Mapping[str, list[Row]]) -> dict[str, Table]:
    """The tables as printed."""
    titles = {key: title for key, (title, _) in OVERALL.items()}
    printed = {
        "floor": tables.value_table("Balanced accuracy", {}, rows["floor"]),
        "results": tables.paper_table(tables.paper_entries(results)),
        "overall": tables.value_table("Value", titles, rows["overall"]),
        "sources": tables.source_table(rows["sources"], results.scores["classes"]),
        "settings": build_table(
            headline.settings(results).items(), [("Setting", lambda item: item[0]), ("Value", lambda item: item[1])]
        ),
    }
    printed |= {name: tables.class_table(rows[name]) for name in ("classes", f"classes_{INDEPENDENT}")}
    return printed | ({"heads": tables.head_table(rows["heads"])} if rows["heads"] else {})
