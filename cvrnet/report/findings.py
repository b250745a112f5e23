"""Make the tables and the page of a report about findings (an image may have several findings)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet import figures
from cvrnet.formatting import number
from cvrnet.html import Table
from cvrnet.metrics.findings import SCORES
from cvrnet.report.page import Section, render_page
from cvrnet.report.report_tables import cell, with_interval
from cvrnet.report.results import Results
from cvrnet.runs.layout import FIGURES

Row = dict[str, Any]
MEAN = "mean"  #: value of the column ``finding`` for the mean over the findings that have scores
_TITLES = ("AUC", "Average precision", "Brier score", "Calibration error")


def finding_tables(results: Results) -> dict[str, Sequence[Row]]:
    """Return the rows of tables/findings.csv and, if the model has several heads, of tables/heads.csv."""
    tables: dict[str, Sequence[Row]] = {
        "findings": [row for name, scores in results.sets.items() for row in finding_rows(name, scores)]
    }
    if heads := _head_rows(results):
        tables["heads"] = heads
    return tables


def finding_rows(name: str, scores: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for each finding and a row for their mean, on all images of a set and then on each source's images.

    ``name`` is the name of the set, and ``scores`` are the scores on it.
    """
    for source, part in {"": scores, **scores.get("per_source", {})}.items():
        whole, spread = part["per_finding"], part["intervals"]
        for finding in part["findings"]:
            row = {"set": name, "source": source, "finding": finding}
            row |= {key: whole[finding][key] for key in ("positives", "negatives", "unknown")}
            yield row | _spread(whole[finding], spread["per_finding"][finding])
        yield {"set": name, "source": source, "finding": MEAN} | _spread(part["macro"], spread["macro"])


def _spread(values: Mapping[str, Any], bounds: Mapping[str, Any]) -> Row:
    found: Row = {}
    for key in SCORES:
        found |= with_interval(key, values[key], bounds[key])
    return found


def _head_rows(results: Results) -> list[Row]:
    """Return the mean AUC of each head alone and of the network; in a cross-validation, the mean over the folds."""
    folds = results.folds
    if any("head_auc" not in fold or None in fold["head_auc"].values() for fold in folds):
        return []
    names = list(folds[0]["head_auc"])
    rows = [{"head": name, "roc_auc": float(np.mean([fold["head_auc"][name] for fold in folds]))} for name in names]
    return [*rows, {"head": "the network", "roc_auc": float(np.mean([fold["macro"]["roc_auc"] for fold in folds]))}]


def _draw(folder: Path, rows: Sequence[Row]) -> None:
    scored = [row for row in rows if row["roc_auc"] is not None]
    if scored:
        ranked = sorted(scored[:-1], key=lambda row: -row["roc_auc"]) + scored[-1:]
        figures.save_figure(figures.plot_findings(ranked), folder / FIGURES / "findings.png")


def finding_page(results: Results, further: Sequence[Section]) -> str:
    """Draw the figure of the findings' AUCs, and return the report's page (HTML), which contains the figure.

    The sections in ``further`` come before the learning curves.
    """
    tables = finding_tables(results)
    rows = tables["findings"]
    _draw(results.folder, [row for row in rows if row["set"] == results.shown and not row["source"]])
    return render_page(
        "findings.html.jinja",
        results,
        further,
        tables={},
        sets=[
            (results.set_title(name), scores, *_tables([row for row in rows if row["set"] == name]))
            for name, scores in results.sets.items()
        ],
        heads=Table(["Head", "Mean AUC"], [[row["head"], number(row["roc_auc"])] for row in tables.get("heads", ())]),
    )


def _tables(rows: Sequence[Row]) -> tuple[Table, Table]:
    """Return the table of scores on all images, and the table of AUCs on each source."""
    whole = [row for row in rows if not row["source"]]
    counts = ("positives", "negatives", "unknown")
    cells = [
        [row["finding"], *(row.get(key, "") for key in counts), *(cell(row, key) for key in SCORES)] for row in whole
    ]
    sources = list(dict.fromkeys(row["source"] for row in rows if row["source"]))
    found = {(row["source"], row["finding"]): cell(row, "roc_auc") for row in rows}
    by_source = [[row["finding"], *(found[source, row["finding"]] for source in sources)] for row in whole]
    return (
        Table(["Finding", "Images with it", "Images without it", "Not known", *_TITLES], cells),
        Table(["AUC of", *sources], by_source if sources else []),
    )
