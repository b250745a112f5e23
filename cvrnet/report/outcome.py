"""Make the report's section of a model that predicts an event: patients, the model's scores, the baselines' scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cvrnet.data.outcomes import YES
from cvrnet.formatting import interval, number
from cvrnet.html import Table, render
from cvrnet.metrics.bootstrap import auc_interval, share_interval
from cvrnet.metrics.paired_models import compare_auc
from cvrnet.report.outcome_text import ENOUGH, event_patients, evidence_sentence, outcome_sentences
from cvrnet.report.page import Section
from cvrnet.report.paired import p_value
from cvrnet.report.report_tables import with_interval
from cvrnet.report.results import Results
from cvrnet.runs.baselines import COUNT, FIRST, LAST, VIEW, read_baselines
from cvrnet.runs.predictions import PredictionTable

Row = dict[str, Any]
MODEL = "model"
TITLES = {
    MODEL: "The model",
    FIRST: "The model, first radiograph alone",
    LAST: "The model, last radiograph alone",
    COUNT: "Number of radiographs, without a network",
    VIEW: "View of the last radiograph (AP: bedside), without a network",
}


def outcome_section(results: Results) -> Section | None:
    """Make the section for `cvrnet.report.write_report`; None if the run predicts no event."""
    outcome = results.run.get("outcome")
    if not outcome:
        return None
    aucs, calibration, evidence = [], [], {}
    for name, table in results.judged.items():
        aucs += auc_rows(table, read_baselines(results.folders, name, table.names), name)
        calibration.append(calibration_row(table, name))
        evidence[results.set_title(name)] = evidence_sentence(*event_patients(table))
    html = render(
        "outcome.html.jinja",
        outcome=outcome,
        sentences=outcome_sentences(outcome),
        evidence=evidence,
        views=[sentence for name, table in results.judged.items() if (sentence := _views(results, name, table))],
        aucs=_auc_table(aucs, results),
        calibration=_calibration_table(calibration, results),
        weighted=results.run.get("config", {}).get("class_weights", False),
        few=any(min(event_patients(table)) < ENOUGH for table in results.judged.values()),
    )
    return Section(f"Predicting {outcome['column']}", html, {"outcome": aucs, "outcome_calibration": calibration})


def auc_rows(table: PredictionTable, baselines: Mapping[str, Sequence[float]], part: str = "") -> list[Row]:
    """Return the AUC of the model and of each baseline, with 95 % intervals, and DeLong's paired tests.

    The intervals of the AUCs are from a bootstrap over patients.

    A row has ``set``, ``score`` (``model``, or a column of baselines.csv), ``auc``, ``auc_low`` and ``auc_high``. The
    results of the test are ``difference`` (the model's AUC minus the baseline's AUC), ``low``, ``high`` and ``p``.
    These four values are None in the row of the model, and in all rows if fewer than two patients have the event, or
    fewer than two patients lack it.
    """
    k = table.classes.index(YES)
    truth, model, patients = table.truth(k) == 1, table.probabilities[:, k], table.groups
    rows = []
    given: dict[str, Any] = {MODEL: model, **baselines}
    for name, scores in given.items():
        row: Row = {"set": part, "score": name, **with_interval("auc", *auc_interval(truth, scores, patients))}
        row |= dict.fromkeys(("difference", "low", "high", "p"))
        if name != MODEL and min(table.sides(k)) > 1:
            test = compare_auc(truth, model, scores, patients)
            row |= {key: test[key] for key in ("difference", "low", "high", "p")}
        rows.append(row)
    return rows


def calibration_row(table: PredictionTable, part: str = "") -> Row:
    """Return the share of rows with the event, the mean probability, and the Brier score of the event (0 to 1).

    ``brier_of_share`` is the Brier score of a model that always predicts this share (``observed``).
    """
    k = table.classes.index(YES)
    truth, model = table.truth(k), table.probabilities[:, k]
    share, bounds = share_interval(truth, table.groups)
    return {
        "set": part,
        "rows": len(truth),
        **with_interval("observed", share, bounds),
        "predicted": float(model.mean()),
        "brier": float(((model - truth) ** 2).mean()),
        "brier_of_share": float(truth.var()),
    }


def _views(results: Results, part: str, table: PredictionTable) -> str:
    """Return a sentence, without its first word "On", about how often the last radiograph is AP; "" if not known."""
    views = read_baselines(results.folders, part, table.names).get(VIEW)
    if views is None:
        return ""
    ap, truth = np.array(views) == 1, table.truth(table.classes.index(YES)) == 1
    return (
        f"{results.set_title(part)}, the last radiograph is AP in {int(ap[truth].sum())} of {int(truth.sum())} cases "
        f"with the event, and in {int(ap[~truth].sum())} of {int((~truth).sum())} cases without it."
    )


def _auc_table(rows: Sequence[Row], results: Results) -> Table:
    def cells() -> Iterator[list[str]]:
        for row in rows:
            auc = interval(row["auc"], row["auc_low"], row["auc_high"])
            tested = row["p"] is not None
            less = interval(row["difference"], row["low"], row["high"]) if tested else ""
            title = TITLES[row["score"]]
            yield [title, results.set_title(row["set"]), auc, less, p_value(row["p"]) if tested else ""]

    return Table(["Score", "Set", "AUC", "Model's AUC minus this AUC", "p"], list(cells()))


def _calibration_table(rows: Sequence[Row], results: Results) -> Table:
    cells = [
        [
            results.set_title(row["set"]),
            row["rows"],
            interval(row["observed"], row["observed_low"], row["observed_high"]),
            number(row["predicted"]),
            number(row["brier"]),
            number(row["brier_of_share"]),
        ]
        for row in rows
    ]
    scores = ["Observed share of the event", "Mean probability", "Brier score", "Brier score of the observed share"]
    return Table(["Set", "Cases", *scores], cells)
