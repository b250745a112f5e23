"""Make the report's section of prediction sets and abstention.

The limits of both were chosen on validation images, to reach a target coverage of the prediction sets, and a target
share of images that the model passes on to a human. The section compares coverage and share, measured on the images of
the report, with these targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.figures.style import MOST_CLASSES
from cvrnet.formatting import number
from cvrnet.html import Table, figure_picture, render
from cvrnet.metrics.abstention import risk_coverage
from cvrnet.metrics.bootstrap import share_interval
from cvrnet.metrics.decisions import average_decisions
from cvrnet.report.draw import draw_risk_coverage
from cvrnet.report.page import Section
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.report.results import Results
from cvrnet.runs.layout import FIGURES
from cvrnet.runs.predictions import PredictionTable

COVERAGES, SHARES = (0.8, 0.9, 0.95), (0.1, 0.2, 0.3, 0.5)
SHOWN = 0.9  # target coverage of the rows for classes and sources
Row = dict[str, Any]
Mask = NDArray[np.bool_]


def selective_section(results: Results) -> Section | None:
    """Make the section for `cvrnet.report.write_report`, and draw its figure.

    The result is None if the model has no prediction sets or no abstention. In a cross-validation, the limits of the
    fold that predicted an image decide its prediction set, and whether the image is passed on to a human.
    """
    ensemble = average_decisions(results.decisions)
    if ensemble.prediction_sets is None or ensemble.abstention is None:
        return None
    sets = [row for name in results.judged for row in _set_rows(results, name)]
    passed = [row for name in results.judged for row in _passed_rows(results, name)]
    score = ensemble.abstention.score
    names = {name: results.set_title(name) for name in results.judged}
    curves = {names[n]: risk_coverage(t.labels, t.probabilities, score) for n, t in results.judged.items()}
    draw_risk_coverage(results.folder, curves)
    html = render(
        "selective.html.jinja",
        sets=_set_table(sets, names),
        passed=_passed_table(passed, names),
        score=score.replace("_", " "),
        patients=ensemble.prediction_sets.patients,
        missed=_missed(sets, names),
        validation_only=list(results.judged) == ["val"],
        figure=figure_picture((results.folder / FIGURES / "risk_coverage.png").read_bytes()),
    )
    return Section("Prediction sets and abstention", html, {"prediction_sets": sets, "abstention": passed})


def _set_rows(results: Results, part: str) -> Iterator[Row]:
    """Yield coverage and mean size of prediction sets, for each target coverage.

    The prediction sets are those of the images in ``part``, a set such as ``test``. There is a row for all images and,
    at the target coverage `SHOWN`, a row for each class and each source.
    """
    table = results.judged[part]
    sources = np.array(table.sources)
    named = sorted({*table.sources} - {""})
    for coverage in COVERAGES:
        found = np.zeros((2, *table.probabilities.shape), bool)  # one limit for all classes; a limit for each class
        for decisions, mine in results.by_model(table):
            sets: Any = decisions.prediction_sets
            for k in (0, 1):
                found[k, mine] = sets.members(table.probabilities[mine], table.classes, coverage, bool(k))
        groups: list[tuple[str, str, Mask]] = [("", "", np.full(len(sources), True))]
        groups += [("class", name, table.labels == k) for k, name in enumerate(table.classes)]
        groups += [("source", name, sources == name) for name in (named if len(named) > 1 else ())]
        for kind, name, rows in groups:
            if rows.any() and (not kind or coverage == SHOWN):
                yield {"set": part, "of": kind, "name": name, "target": coverage} | _set_scores(table, found, rows)


def _set_scores(table: PredictionTable, found: Mask, rows: Mask) -> Row:
    patients = np.array(table.groups)[rows].tolist()
    row: Row = {"images": int(rows.sum())}
    for suffix, sets in zip(("", "_by_class"), found[:, rows], strict=True):
        hits = sets[np.arange(len(sets)), table.labels[rows]]
        row |= with_interval(f"coverage{suffix}", *share_interval(hits, patients))
        row[f"mean_size{suffix}"] = float(sets.sum(1).mean())
        row[f"one_class{suffix}"] = float((sets.sum(1) == 1).mean())
    return row


def _passed_rows(results: Results, part: str) -> Iterator[Row]:
    """Yield, for each share, how many images are passed on to a human, and the accuracy on the other images."""
    table = results.judged[part]
    right = table.guesses == table.labels
    patients = np.array(table.groups)
    for share in (0.0, *SHARES):
        passed = np.zeros(len(right), bool)
        for decisions, mine in results.by_model(table):
            abstention: Any = decisions.abstention
            if share:
                passed[mine] = abstention.passed_on(table.probabilities[mine], share)
        row: Row = {"set": part, "target": share, "passed_on": float(passed.mean()), "answered": int((~passed).sum())}
        yield row | with_interval("accuracy", *share_interval(right[~passed], patients[~passed].tolist()))


def _set_table(rows: Sequence[Row], names: Mapping[str, str]) -> Table:
    few = len({row["name"] for row in rows if row["of"] == "class"}) <= MOST_CLASSES
    cells = [
        [
            f"{row['target']:g}",
            names[row["set"]],
            f"{row['of']} {row['name']}".strip() or "all images",
            row["images"],
            cell(row, "coverage"),
            f"{row['mean_size']:.2f}",
            cell(row, "coverage_by_class"),
            f"{row['mean_size_by_class']:.2f}",
        ]
        for row in rows
        if few or row["of"] != "class"
    ]
    titles = ["Target coverage", "Set", "Group", "Images", "Coverage", "Mean size", "Coverage", "Mean size"]
    return Table(titles, cells, [("", 4), ("One limit for all classes", 2), ("A limit for each class", 2)])


def _passed_table(rows: Sequence[Row], names: Mapping[str, str]) -> Table:
    cells = [
        [names[row["set"]], f"{row['target']:g}", number(row["passed_on"]), row["answered"], cell(row, "accuracy")]
        for row in rows
    ]
    titles = ["Set", "Target share passed on", "Share passed on", "Images predicted", "Accuracy of these predictions"]
    return Table(titles, cells)


def _missed(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    """Return a text for each set or source whose coverage, with its whole interval, is below the target coverage."""
    return [
        f"{row['name'] or names[row['set']]}: coverage {row['coverage']:.3f} instead of {row['target']:g}"
        for row in rows
        if row["of"] in ("", "source") and row["coverage_high"] is not None and row["coverage_high"] < row["target"]
    ]
