"""The report's section of prediction sets and abstention: whether the promises of validation hold on other images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.figures.style import MOST_CLASSES
from cvrnet.formatting import interval, number
from cvrnet.html import Table, figure_picture, render
from cvrnet.metrics.abstention import risk_coverage
from cvrnet.metrics.bootstrap import exact_interval, mean_interval
from cvrnet.metrics.decisions import Decisions, average_decisions
from cvrnet.report.draw import draw_risk_coverage
from cvrnet.report.report_tables import SETS
from cvrnet.report.results import Results, member_decisions, read_results
from cvrnet.report.write import Section
from cvrnet.runs.layout import FIGURES, INDEPENDENT
from cvrnet.runs.predictions import PredictionTable, read_predictions

COVERAGES, SHARES = (0.8, 0.9, 0.95), (0.1, 0.2, 0.3, 0.5)
SHOWN = 0.9  # coverage of the rows for classes and sources
Row = dict[str, Any]
Mask = NDArray[np.bool_]


def selective_section(folder: Path) -> Section | None:
    """Make the section for `cvrnet.report.write_report`, and draw its figure; None if the model lacks these decisions.

    In a cross-validation each image is judged by the limits of the fold that predicted it.
    """
    results = read_results(folder)
    folders, members = member_decisions(results)
    ensemble = average_decisions(members)
    if ensemble.prediction_sets is None or ensemble.abstention is None:
        return None
    tables = {name: read_predictions(folders, results.scores["classes"], name) for name in results.sets}
    if len(tables) > 1:  # the limits were chosen on the validation images of a single training
        tables.pop("val", None)
    sets = [row for name, table in tables.items() for row in _set_rows(name, table, members)]
    passed = [row for name, table in tables.items() for row in _passed_rows(name, table, members)]
    score = ensemble.abstention.score
    names = {name: _set_name(name, results) for name in tables}
    curves = {names[n]: risk_coverage(t.labels, t.probabilities, score) for n, t in tables.items()}
    draw_risk_coverage(folder, curves)
    html = render(
        "selective.html.jinja",
        sets=_set_table(sets, names),
        passed=_passed_table(passed, names),
        score=score.replace("_", " "),
        patients=ensemble.prediction_sets.patients,
        missed=_missed(sets, names),
        validation_only=list(tables) == ["val"],
        figure=figure_picture((folder / FIGURES / "risk_coverage.png").read_bytes()),
    )
    return Section("Sets of classes, and when not to answer", html, {"prediction_sets": sets, "abstention": passed})


def _set_name(name: str, results: Results) -> str:
    return results.held_back if name == INDEPENDENT else SETS[name]


def _by_member(table: PredictionTable, members: Sequence[Decisions]) -> Iterator[tuple[Decisions, Mask]]:
    """Each member's decisions, with the images that it predicted."""
    folds = np.array(table.folds)
    for fold, decisions in enumerate(members, start=1):
        yield decisions, folds == (str(fold) if len(members) > 1 else "")


def _set_rows(part: str, table: PredictionTable, members: Sequence[Decisions]) -> Iterator[Row]:
    """Coverage and size of the sets: for all images at each coverage, then for each class and source."""
    sources = np.array(table.sources)
    named = sorted({*table.sources} - {""})
    for coverage in COVERAGES:
        found = np.zeros((2, *table.probabilities.shape), bool)  # without and with by_class
        for decisions, mine in _by_member(table, members):
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
        row |= _share(f"coverage{suffix}", hits, patients)
        row[f"mean_size{suffix}"] = float(sets.sum(1).mean())
        row[f"one_class{suffix}"] = float((sets.sum(1) == 1).mean())
    return row


def _passed_rows(part: str, table: PredictionTable, members: Sequence[Decisions]) -> Iterator[Row]:
    """How many images are passed on at each share, and how accurate the answers to the others are."""
    right = table.guesses == table.labels
    patients = np.array(table.groups)
    for share in (0.0, *SHARES):
        passed = np.zeros(len(right), bool)
        for decisions, mine in _by_member(table, members):
            abstention: Any = decisions.abstention
            if share:
                passed[mine] = abstention.passed_on(table.probabilities[mine], share)
        row: Row = {"set": part, "target": share, "passed_on": float(passed.mean()), "answered": int((~passed).sum())}
        yield row | _share("accuracy", right[~passed], patients[~passed].tolist())


def _share(name: str, hits: Mask, patients: Sequence[str]) -> Row:
    """A share of images with its 95 % interval by patient."""
    value, bounds = mean_interval(hits.astype(float), patients)
    if value in (0.0, 1.0) and patients:
        bounds = exact_interval(value, len({*patients}))
    low, high = bounds or (None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _set_table(rows: Sequence[Row], names: Mapping[str, str]) -> Table:
    few = len({row["name"] for row in rows if row["of"] == "class"}) <= MOST_CLASSES
    cells = [
        [
            f"{row['target']:g}",
            names[row["set"]],
            f"{row['of']} {row['name']}".strip() or "all images",
            row["images"],
            _rate(row, "coverage"),
            f"{row['mean_size']:.2f}",
            _rate(row, "coverage_by_class"),
            f"{row['mean_size_by_class']:.2f}",
        ]
        for row in rows
        if few or row["of"] != "class"
    ]
    titles = ["Promised", "On", "Of", "Images", "Coverage", "Mean size", "Coverage", "Mean size"]
    return Table(titles, cells, [("", 4), ("One limit", 2), ("A limit for each class", 2)])


def _passed_table(rows: Sequence[Row], names: Mapping[str, str]) -> Table:
    cells = [
        [names[row["set"]], f"{row['target']:g}", number(row["passed_on"]), row["answered"], _rate(row, "accuracy")]
        for row in rows
    ]
    return Table(["On", "To pass on", "Passed on", "Answered", "Accuracy of the answers"], cells)


def _rate(row: Row, name: str) -> str:
    return interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _missed(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    """A sentence for each set or source whose coverage is clearly below the promise."""
    return [
        f"{row['name'] or names[row['set']]}: {row['coverage']:.3f} instead of {row['target']:g}"
        for row in rows
        if row["of"] in ("", "source") and row["coverage_high"] is not None and row["coverage_high"] < row["target"]
    ]
