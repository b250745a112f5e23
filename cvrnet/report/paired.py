"""The table of a comparison of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cvrnet.formatting import interval, number
from cvrnet.html import Table

TITLES = {"accuracy": "Accuracy", "auc_macro": "AUC, macro", "auc": "AUC of {}"}


def score_title(row: Mapping[str, Any]) -> str:
    """The name of a row's score."""
    return TITLES[row["score"]].format(row["class"])


def paired_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `cvrnet.workflows.compare.paired_rows` as they are shown."""
    cells = [
        [
            row["model"],
            score_title(row),
            number(row["one"]),
            number(row["other"]),
            interval(row["difference"], row["low"], row["high"]),
            p_value(row["p"]),
            p_value(row["p_holm"]),
        ]
        for row in rows
    ]
    titles = ["Model", "Score", "Model's", "Reference's", "Difference", "p", "p, Holm"]
    return Table(titles, cells)


def p_value(p: float) -> str:
    """A p-value; small ones as a bound."""
    return "< 0.001" if p < 0.001 else number(p)
