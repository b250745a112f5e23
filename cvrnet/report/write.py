"""Write report.html: a run's results in one file that needs no network connection, prints well and fits a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data import ImageError, read_image
from cvrnet.figures.style import MOST_CLASSES
from cvrnet.files import damaged_files, write_sheet, write_text
from cvrnet.html import Picture, small_picture
from cvrnet.report.checklist import checklist_markdown
from cvrnet.report.findings import finding_page, finding_tables
from cvrnet.report.page import Section, image_path, render_page
from cvrnet.report.report_tables import ReportTable, Row, report_tables, too_few_patients
from cvrnet.report.results import Results, read_results
from cvrnet.runs.attention import top_pictures
from cvrnet.runs.layout import CHECKLIST, REPORT, TABLES

SHOWN = 12  # at most this many mistakes are on the page


def write_report(folder: str | Path, further: Sequence[Section] = ()) -> Path:
    """Write `report.html`, `checklist.md` and `tables/*.csv` from the files in the folder of a run or an evaluation.

    The report has the sections that need neither a model nor images, and the sections in ``further``, which come before
    the learning curves. `cvrnet.workflows.finish_report` writes the whole report of a job.

    Returns:
        The path of report.html.

    Raises:
        UserError: The folder holds no finished run, or a file of the run is damaged.
    """
    folder = Path(folder)
    with damaged_files(folder):
        results = read_results(folder)
        if results.multilabel:
            rows, page = finding_tables(results), finding_page(results, further)
        else:
            tables = report_tables(results)
            rows, page = {name: table.rows for name, table in tables.items()}, _page(results, tables, further)
        for section in further:
            rows |= section.tables
        for name, found in rows.items():
            write_sheet(folder / TABLES / f"{name}.csv", found)
        write_text(folder / CHECKLIST, checklist_markdown(results))
        write_text(folder / REPORT, page)
    return folder / REPORT


def _page(results: Results, tables: Mapping[str, ReportTable], further: Sequence[Section]) -> str:
    mistakes = tables["mistakes"].rows[:SHOWN] if "mistakes" in tables else []
    bags = results.run.get("unit", "image") != "image"
    pictures = top_pictures(results.folders, results.shown) if bags else {}
    return render_page(
        "report.html.jinja",
        results,
        further,
        tables=tables,
        many_classes=len(results.predictions.classes) > MOST_CLASSES,
        too_few_patients=too_few_patients,
        mistakes=_mistake_thumbnails(results.run, mistakes, pictures),
        images_are_gone=not any(
            image_path(results.run, str(pictures.get(row["path"], row["path"]))).is_file() for row in mistakes
        ),
    )


def _mistake_thumbnails(
    run: Mapping[str, Any], rows: Sequence[Row], pictures: Mapping[str, str]
) -> list[tuple[Picture | str, str, list[str]]]:
    """Return, for each row of `mistake_rows`, the image (or why it cannot be shown), its path, and lines of text.

    ``pictures`` maps each bag to the path of the picture that is shown for it.
    """
    shown = []
    for row in rows:
        where = [row["source"], row["fold"] and f"fold {row['fold']}"]
        answer = f"{row['label']} predicted as {row['prediction']}, probability {row['probability']:.3f}"
        path = image_path(run, pictures.get(row["path"], row["path"]))
        try:
            picture: Picture | str = small_picture(read_image(path, any_body_part=True))
        except ImageError:
            picture = "image cannot be read" if path.is_file() else "image not found"
        shown.append((picture, row["path"], [answer, ", ".join(filter(None, where))]))
    return shown
