"""The table of a comparison of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cvrnet.figures.plot_paired import score_name
from cvrnet.formatting import interval, number
from cvrnet.html import Table


def paired_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of `cvrnet.workflows.compare.paired_rows` as they are shown."""
    cells = [
        [
            row["model"],
            name[0].upper() + name[1:],
            number(row["one"]),
            number(row["other"]),
            interval(row["difference"], row["low"], row["high"]),
            p_value(row["p"]),
            p_value(row["p_holm"]),
        ]
        for row, name in zip(rows, map(score_name, rows), strict=True)
    ]
    titles = ["Model", "Score", "Model's", "Reference's", "Difference", "p", "p, Holm"]
    return Table(titles, cells)


def p_value(p: float) -> str:
    """A p-value; small ones as a bound."""
    return "< 0.001" if p < 0.001 else number(p)
