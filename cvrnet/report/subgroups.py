"""Make the report's section of subgroups: scores of groups that a column of the manifest makes, such as sex or age."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cvrnet.data import DataError, DataSet, read_records
from cvrnet.data.finding_columns import finding_columns
from cvrnet.data.finding_labels import NO_FINDING
from cvrnet.html import Table, render
from cvrnet.metrics import bootstrap_intervals, classification_scores
from cvrnet.report.finding_subgroups import finding_group_rows, finding_group_tables
from cvrnet.report.page import Section
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.report.results import Results
from cvrnet.runs.predictions import PredictionTable
from cvrnet.scoring import MIN_PATIENTS

MOST_VALUES = 10  # a column with more values makes groups only if the values are numbers
BINS = 4  # number of bins for a column of numbers
AGES = (0, 18, 40, 60, 80)  # lowest age of each age group, in years
UNKNOWN = "unknown"
_NO_GROUPS = re.compile(r"\b(id|uid|identifier|accession|date|time|path|file|filename)\b")
SCORES = ("accuracy", "balanced_accuracy", "roc_auc")
Row = dict[str, Any]


def subgroups_section(results: Results) -> Section | None:
    """Make the section for `cvrnet.report.write_report`.

    The result is None if the data set is not found or cannot be read, or if none of its columns makes groups.
    """
    columns = group_columns(_metadata(results))
    rows_of, show = (finding_group_rows, finding_group_tables) if results.multilabel else (_class_rows, _class_table)
    rows = [
        {"set": name, "column": column, **row}
        for name, table in results.judged.items()
        for column, groups in columns.items()
        for row in rows_of(_members(table, groups))
    ]
    if not rows:
        return None
    shown = [{**row, "on": results.set_title(row["set"])} for row in rows]
    html = render("subgroups.html.jinja", tables=show(shown), findings=results.multilabel, least=MIN_PATIENTS)
    return Section("Subgroups", html, {"subgroups": rows})


def _metadata(results: Results) -> dict[str, dict[str, str]]:
    """Map the name of each image to its view and further columns, from the manifest that run.json names."""
    data = DataSet.of_run(results.run)
    if data is None or not os.path.exists(data):
        return {}
    try:
        records = read_records(data, labelled=False)
    except DataError:  # the data set has changed; the other parts of the report do not need it
        return {}
    findings = {*results.predictions.classes, NO_FINDING} if results.multilabel else set()
    if results.multilabel and not any(record.label for record in records):  # also findings that the model does not know
        findings |= {*finding_columns(records)}
    rows = {record.name: {"view": record.view, **record.metadata} for record in records}
    if outcome := results.run.get("outcome"):  # columns about later events make no groups
        findings |= {outcome["column"], *(key for row in rows.values() for key in row if key.endswith("_day"))}
    return {name: {key: row[key] for key in row if key not in findings} for name, row in rows.items()}


def group_columns(metadata: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the groups of each column that makes groups: name of the column -> name of an image -> its group.

    A column with 2 to `MOST_VALUES` values makes a group for each value. A column with more values makes groups only if
    all values are numbers: it is cut at its quartiles or, if its name contains the word age, at `AGES`. Columns that
    are named like identifiers, dates or files make no groups.

    >>> group_columns({"a.png": {"sex": "F", "note": "x"}, "b.png": {"sex": "M", "note": "x"}})
    {'sex': {'a.png': 'F', 'b.png': 'M'}}
    """
    found = {}
    for column in dict.fromkeys(name for row in metadata.values() for name in row):
        values = {image: row.get(column, "").strip() for image, row in metadata.items()}
        groups = {} if _NO_GROUPS.search(_words(column)) else _groups(column, values)
        if 2 <= len({*groups.values()}) <= MOST_VALUES + 1:
            found[column] = groups
    return found


def _groups(column: str, values: Mapping[str, str]) -> dict[str, str]:
    """Map the name of each image to its group; return an empty dictionary if the column makes no groups."""
    known = {value for value in values.values() if value}
    if len(known) <= MOST_VALUES:
        return {image: value or UNKNOWN for image, value in values.items()} if known else {}
    numbers = {image: _number(value) for image, value in values.items()}
    given = np.array([number for number in numbers.values() if number is not None])
    if len(given) < sum(map(bool, values.values())):  # some values are not numbers
        return {}
    is_age = re.search(r"\bage\b", _words(column))
    edges = np.array(AGES) if is_age else np.unique(np.quantile(given, np.arange(BINS) / BINS))
    names = _bin_names(edges, given)
    places = {image: int(np.searchsorted(edges, n, side="right")) - 1 for image, n in numbers.items() if n is not None}
    return {image: names[max(0, places[image])] if image in places else UNKNOWN for image in values}


def _words(column: str) -> str:
    """Return a column's name in lower case, with a space between its words.

    >>> _words("PatientAge"), _words("study_id")
    ('patient age', 'study id')
    """
    return re.sub(r"([a-z])([A-Z])|_", r"\1 \2", column).lower()


def _number(text: str) -> float | None:
    """Return a number, or the years of a DICOM age such as 045Y; None for any other text."""
    text = re.sub(r"^(\d{3})Y$", r"\1", text)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _bin_names(edges: np.ndarray, given: np.ndarray) -> list[str]:
    """Return the names of bins: ``0 to 18`` includes 0, but not 18; the last bin includes its end."""
    ends = [*edges[1:], max(given.max(), edges[-1])]
    return [f"{low:g} to {high:g}" for low, high in zip(edges, ends, strict=True)]


def _members(table: Any, groups: Mapping[str, str]) -> dict[str, Any]:
    """Map each group to its rows of the table; return an empty dictionary if all images are in one group."""
    of_image = np.array([groups.get(name, UNKNOWN) for name in table.names])
    present = sorted({*of_image.tolist()}, key=_order)
    return {g: table.rows(np.flatnonzero(of_image == g).tolist()) for g in present} if len(present) > 1 else {}


def _order(group: str) -> tuple[bool, float, str]:
    """Return a sorting key: bins by their numbers, other groups by their names, unknown last."""
    return group == UNKNOWN, _number(group.partition(" to ")[0]) or 0.0, group


def _class_rows(members: Mapping[str, PredictionTable]) -> Iterator[Row]:
    for group, part in members.items():
        count = len({*part.groups})
        row: Row = {"group": group, "images": len(part.names), "patients": count}
        row["too_small"] = "" if count >= MIN_PATIENTS else f"fewer than {MIN_PATIENTS} patients"
        yield row | (_no_scores() if row["too_small"] else _scores(part))


def _no_scores() -> Row:
    return {key: None for name in SCORES for key in with_interval(name, None, None)}


def _scores(table: PredictionTable) -> Row:
    """Return accuracy, balanced accuracy and macro AUC, each with its 95 % interval (bootstrap over patients)."""
    scores = classification_scores(table.labels, table.probabilities, table.classes)
    spread = bootstrap_intervals(table.labels, table.probabilities, table.classes, table.groups)
    row: Row = {}
    for name in SCORES:
        value, bounds = (tree["macro"] if name == "roc_auc" else tree for tree in (scores, spread))
        row |= with_interval(name, value[name], bounds[name])
    return row


def _class_table(rows: Sequence[Row]) -> dict[str, Table]:
    cells = []
    for row in rows:
        scores = ["too few patients", "", ""]
        if not row["too_small"]:
            scores = [cell(row, name) for name in SCORES]
        cells.append([*(row[key] for key in ("column", "group", "on", "images", "patients")), *scores])
    titles = ["Column", "Group", "Set", "Images", "Patients", "Accuracy", "Balanced accuracy", "AUC, macro"]
    return {"": Table(titles, cells)}
