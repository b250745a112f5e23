"""report.html: the results of a run in one file that needs no network, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvrnet.data import ImageError, read_image
from cvrnet.data.data_set import DataSet
from cvrnet.figures.plot_learning import best_row
from cvrnet.figures.style import MOST_CLASSES
from cvrnet.files import damaged_files, write_sheet, write_text
from cvrnet.html import Picture, figure_picture, render, small_picture
from cvrnet.report import headline
from cvrnet.report.checklist import AUTHOR, checklist, checklist_markdown
from cvrnet.report.report_tables import ReportTable, Row, report_tables, settings_table, too_few_patients
from cvrnet.report.results import Results, read_results
from cvrnet.runs.attention import top_pictures
from cvrnet.runs.layout import CHECKLIST, FIGURES, REPORT, TABLES

SHOWN = 12  # mistakes on the page


@dataclass(frozen=True)
class Section:
    """A further section of the report."""

    title: str  #: as text
    html: str  #: its content
    #: Name of a file in tables/ (without .csv) -> its rows.
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def write_report(folder: str | Path, further: Sequence[Section] = ()) -> Path:
    """Write `report.html`, `checklist.md` and `tables/*.csv` from the files in the folder of a run or an evaluation.

    This can be repeated at any time, for instance after an audit.json was added to the run. The sections in ``further``
    come before the learning curves. Returns the page's path.

    Raises:
        UserError: The folder holds no finished run, or a damaged one.
    """
    folder = Path(folder)
    with damaged_files(folder):
        results = read_results(folder)
        tables = report_tables(results)
        rows = {name: table.rows for name, table in tables.items()}
        for section in further:
            rows |= section.tables
        for name, found in rows.items():
            write_sheet(folder / TABLES / f"{name}.csv", found)
        write_text(folder / CHECKLIST, checklist_markdown(results))
        write_text(folder / REPORT, _page(results, tables, further))
    return folder / REPORT


def _page(results: Results, tables: Mapping[str, ReportTable], further: Sequence[Section]) -> str:
    mistakes = tables["mistakes"].rows[:SHOWN] if "mistakes" in tables else []

    bags = results.run.get("unit", "image") != "image"
    pictures = top_pictures(results.folders, results.shown) if bags else {}

    def figure(name: str) -> Picture:
        return figure_picture((results.folder / FIGURES / f"{name}.png").read_bytes())

    return render(
        "report.html.jinja",
        results=results,
        run=results.run,
        many_classes=len(results.scores["classes"]) > MOST_CLASSES,
        tables=tables,
        best_epochs=[int(row["epoch"]) for row in map(best_row, results.histories) if row is not None],
        headline=headline,
        too_few_patients=too_few_patients,
        mistakes=_mistake_thumbnails(results.run, mistakes, pictures),
        images_are_gone=not any(
            image_path(results.run, str(pictures.get(row["path"], row["path"]))).is_file() for row in mistakes
        ),
        figure=figure,
        drawn={path.stem for path in (results.folder / FIGURES).glob("*.png")},  # version 0.1 drew fewer
        settings=settings_table(results),
        further=further,
        checklist=checklist(results),
        author=AUTHOR,
    )


def _mistake_thumbnails(
    run: Mapping[str, Any], rows: Sequence[Row], pictures: Mapping[str, str]
) -> list[tuple[Picture | str, str, list[str]]]:
    """For each row of `mistake_rows`: the image, or why it cannot be shown; its path; and lines of text.

    ``pictures`` names the image that stands for each bag.
    """
    shown = []
    for row in rows:
        where = [row["source"], row["fold"] and f"fold {row['fold']}"]
        answer = f"{row['label']} taken for {row['prediction']}, {row['probability']:.3f}"
        path = image_path(run, pictures.get(row["path"], row["path"]))
        try:
            picture: Picture | str = small_picture(read_image(path, any_body_part=True))
        except ImageError:
            picture = "image cannot be read" if path.is_file() else "image not found"
        shown.append((picture, row["path"], [answer, ", ".join(filter(None, where))]))
    return shown


def image_path(run: Mapping[str, Any], name: str) -> Path:
    """The expected location of an image, from its path in the data set and the data set's path in run.json."""
    data = DataSet.of_run(run)
    return data.image_folder() / name if data else Path()  # a pulled run: its images are on another machine
