"""Make the report's section of operating points: sensitivity and specificity at thresholds chosen in validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.figures.style import MOST_CLASSES
from cvrnet.formatting import number
from cvrnet.html import Table, render
from cvrnet.metrics.bootstrap import share_interval
from cvrnet.metrics.operating_points import (
    RULES,
    OperatingPoint,
    average_operating_points,
    positives,
    threshold_warnings,
)
from cvrnet.report.page import Section
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.report.results import SETS, Results
from cvrnet.runs.predictions import AnyTable

RATES = ("sensitivity", "specificity")
PREVALENCES = (0.01, 0.05, 0.1, 0.2, 0.5)
Row = dict[str, Any]


@dataclass(frozen=True)
class Decided:
    """For each image of a set, the classes that are present according to the thresholds of one of the `RULES`."""

    table: AnyTable  #: the predictions for the N images
    positive: NDArray[np.float64]  #: (N, C): 1 if the class is decided to be present, 0 if not, NaN without a threshold

    def rates(self, k: int, rows: NDArray[np.bool_]) -> Row:
        """Return sensitivity and specificity of class ``k``, with 95 % intervals (bootstrap over patients).

        ``rows`` is a mask (N,) of the images that are used.
        """
        truth, hits, groups = self.table.truth(k), self.positive[:, k], np.array(self.table.groups)
        found: Row = {}
        for name, right, value in zip(RATES, (hits, 1 - hits), (1, 0), strict=True):
            among = rows & (truth == value)
            found |= with_interval(name, *share_interval(right[among], groups[among].tolist()))
        return found


def operating_points_section(results: Results) -> Section | None:
    """Make the section for `cvrnet.report.write_report`; None if the model has no operating points.

    In a cross-validation, the thresholds of the fold that predicted an image decide whether the image is positive.
    """
    members = [decisions.operating_points for decisions in results.decisions]
    points = average_operating_points(members)
    if not points:
        return None
    classes: list[str] = results.predictions.classes
    targets = {(point.rule, point.class_name): point for point in points}
    rows: list[Row] = []
    for name, table in results.judged.items():
        for rule in RULES:
            decided = Decided(table, _decide(results, table, rule))
            for k, class_name in enumerate(classes):
                if (rule, class_name) in targets:
                    rows += _rows(name, decided, k, targets[rule, class_name])
    prevalences = tuple(results.run.get("prevalences") or PREVALENCES)
    html = render(
        "operating_points.html.jinja",
        warnings=_warnings(members, results.kind == "crossval"),
        many=len(classes) > MOST_CLASSES,
        table=_main_table(rows, results),
        by_source=_source_table(rows, results.noun),
        by_prevalence=_prevalence_table(rows, prevalences, results.noun),
        noun=results.noun,
        validation_only=list(results.judged) == ["val"],
        crossval=results.kind == "crossval",
        ensemble=results.kind == "evaluate" and results.run["models"] > 1,
    )
    tables = {"operating_points": [row | _predictive_values(row, prevalences) for row in rows]}
    return Section("Operating points", html, tables)


def _decide(results: Results, table: AnyTable, rule: str) -> NDArray[np.float64]:
    """Return the decisions (N, C) of `Decided`, by the thresholds of the model that predicted each image."""
    decided = np.full(table.probabilities.shape, np.nan)
    for decisions, mine in results.by_model(table):
        chosen = [point for point in decisions.operating_points if point.rule == rule]
        decided[mine] = positives(chosen, table.probabilities[mine], table.classes)
    return decided


def _rows(part: str, decided: Decided, k: int, point: OperatingPoint) -> Iterator[Row]:
    """Yield the rows of one set, rule and class: all images first, then each source."""
    table, sources = decided.table, np.array(decided.table.sources)
    named = sorted({*table.sources} - {""})
    for source in ["", *(named if len(named) > 1 else ())]:
        inside = sources == source if source else np.full(len(sources), True)
        rates = decided.rates(k, inside)
        if all(rates[name] is None for name in RATES):
            continue
        row: Row = {"set": part, "source": source, "operating_point": point.name, "class": point.class_name}
        row["threshold"] = point.threshold
        row["images"], row["other_images"] = (int((inside & (table.truth(k) == value)).sum()) for value in (1, 0))
        row |= rates | {f"validation_{name}": getattr(point, name) for name in RATES}
        row["folds_that_hold_the_target"] = "" if source else _holding(decided, k, point)
        yield row


def _holding(decided: Decided, k: int, point: OperatingPoint) -> str:
    """Return a text such as ``4 of 5``: in how many folds the rate's interval contains the target or lies above it."""
    folds = [fold for fold in dict.fromkeys(decided.table.folds) if fold]
    if point.target is None or not folds:
        return ""
    highs = [decided.rates(k, np.array(decided.table.folds) == fold)[f"{point.rule}_high"] for fold in folds]
    known = [high for high in highs if high is not None]
    return f"{sum(high >= point.target for high in known)} of {len(known)}" if known else ""


def _warnings(members: Sequence[Sequence[OperatingPoint]], crossval: bool) -> list[str]:
    """Return the warnings about the models' thresholds; in a cross-validation, each warning names its folds."""
    folds: dict[str, list[str]] = {}
    for fold, member in enumerate(members, start=1):
        for line in threshold_warnings(member):
            folds.setdefault(line, []).append(str(fold))
    return [f"{line} (fold {', '.join(of)})" if crossval else line for line, of in folds.items()]


def _main_table(rows: Sequence[Row], results: Results) -> Table:
    """Return a row for each operating point, class and set."""
    crossval = results.kind == "crossval"
    titles = [
        "Operating point",
        results.noun.capitalize(),
        "Threshold",
        "Set",
        "Sensitivity",
        "Specificity",
        "Sensitivity",
        "Specificity",
    ]
    cells = [
        [
            row["operating_point"],
            row["class"],
            number(row["threshold"]),
            results.set_title(row["set"]),
            cell(row, "sensitivity"),
            cell(row, "specificity"),
            *(number(row[f"validation_{name}"]) for name in RATES),
            *([row["folds_that_hold_the_target"]] if crossval else []),
        ]
        for row in rows
        if not row["source"]
    ]
    groups = [("", 4), ("On this set", 2), ("On the validation images", 2), *([("", 1)] if crossval else [])]
    return Table([*titles, *(["Folds that hold the target"] if crossval else [])], cells, groups)


def _source_table(rows: Sequence[Row], noun: str) -> Table:
    """Return a table of the rates on each source, at the thresholds for a target sensitivity.

    The table has no rows if there is only one source.
    """
    keys = ("class", "source", "set", "images", "other_images")
    cells = [
        [*(SETS[row[key]] if key == "set" else row[key] for key in keys), *(cell(row, name) for name in RATES)]
        for row in rows
        if row["source"] and row["operating_point"].startswith("sensitivity")
    ]
    titles = [
        noun.capitalize(),
        "Source",
        "Set",
        f"Images with the {noun}",
        "Other images",
        "Sensitivity",
        "Specificity",
    ]
    return Table(titles, cells)


def _prevalence_table(rows: Sequence[Row], prevalences: Sequence[float], noun: str) -> Table:
    """Return a table of PPV and NPV of each operating point at some prevalences, from its rates on the first set."""
    cells = []
    for row in rows:
        if not row["source"] and row["set"] == rows[0]["set"]:
            found = _predictive_values(row, prevalences)
            values = [f"{number(found[f'ppv_at_{p:g}'])} / {number(found[f'npv_at_{p:g}'])}" for p in prevalences]
            cells.append([row["operating_point"], row["class"], *values])
    titles = ["Operating point", noun.capitalize(), *(f"{100 * p:g} %" for p in prevalences)]
    return Table(titles, cells, [("", 2), ("PPV / NPV at a prevalence of", len(prevalences))])


def _predictive_values(row: Row, prevalences: Sequence[float]) -> Row:
    """Return PPV and NPV for each prevalence, from the sensitivity and specificity of a row, by Bayes' rule."""
    found: Row = {}
    sensitivity, specificity = row["sensitivity"], row["specificity"]
    for p in prevalences:
        ppv = npv = None
        if sensitivity is not None and specificity is not None:
            found_right, missed = sensitivity * p, (1 - sensitivity) * p
            left_right, needless = specificity * (1 - p), (1 - specificity) * (1 - p)
            ppv = found_right / (found_right + needless) if found_right + needless else None
            npv = left_right / (left_right + missed) if left_right + missed else None
        found |= {f"ppv_at_{p:g}": ppv, f"npv_at_{p:g}": npv}
    return found
