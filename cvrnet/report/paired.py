"""Compare models on the images that all of them predicted: the comparison's rows, and their table in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cvrnet.figures.plot_paired import score_name
from cvrnet.formatting import interval, number
from cvrnet.html import Table
from cvrnet.metrics import holm
from cvrnet.metrics.paired_models import compare_accuracy, compare_auc, compare_mean_auc
from cvrnet.runs.predictions import AnyTable, PredictionTable

Row = dict[str, Any]


def paired_rows(tables: Mapping[str, AnyTable]) -> list[Row]:
    """Compare each model with the first model: macro AUC, accuracy, and the AUC of each class.

    Only images that all models predicted are used; if there are none, there are no rows. A row has ``score``,
    ``class``, ``model``, ``reference`` (the first model), ``images``, ``patients``, the keys of
    `cvrnet.metrics.paired_models.compare_auc` (``one`` is the model, ``other`` the reference), and ``p_holm`` (``p``,
    corrected by Holm's method for the number of other models). A finding is compared like a class, on the images for
    which it is known; findings have no accuracy.

    Args:
        tables: Name of a model -> its predictions, one for each image. The classes of all models must be equal, in any
            order.
    """
    (first, reference), *others = _of_common_images(tables).items()
    if not reference.names:
        return []
    size = {"reference": first, "images": len(reference.names), "patients": len({*reference.groups})}
    rows: list[Row] = [
        {"score": score, "class": name, "model": model, **size, **test}
        for model, table in others
        for score, name, test in _tests(table, reference)
    ]
    for key in {(row["score"], row["class"]) for row in rows}:
        mine = [row for row in rows if (row["score"], row["class"]) == key]
        for row, p_holm in zip(mine, holm([row["p"] for row in mine]), strict=True):
            row["p_holm"] = p_holm
    return rows


def _of_common_images(tables: Mapping[str, AnyTable]) -> dict[str, AnyTable]:
    """Return the tables with only their common images, with images and classes in the first table's order."""
    first = next(iter(tables.values()))
    common = set(first.names).intersection(*(table.names for table in tables.values()))
    names = [name for name in first.names if name in common]
    found = {}
    for model, table in tables.items():
        place = {name: i for i, name in enumerate(table.names)}
        found[model] = table.rows([place[name] for name in names]).with_classes(first.classes)
    return found


def _tests(table: AnyTable, reference: AnyTable) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield the score, the class and the test of a model against the reference.

    If only one patient has a class, or only one patient lacks it, the AUC of the class has no variance. This AUC and
    the macro AUC are then not tested.
    """
    if isinstance(table, PredictionTable) and isinstance(reference, PredictionTable):
        right, other = (one.guesses == one.labels for one in (table, reference))
        yield "accuracy", "", compare_accuracy(right, other, reference.groups)
    p, q, patients = table.probabilities, reference.probabilities, np.array(reference.groups)
    truth = np.stack([reference.truth(k) for k in range(len(reference.classes))], 1)
    sides = [min(reference.sides(k)) for k in range(len(reference.classes))]
    present = [count for count in sides if count]
    if present and min(present) > 1:
        yield "auc_macro", "", compare_mean_auc(truth, p, q, reference.groups)
    for k, name in enumerate(reference.classes):
        known = ~np.isnan(truth[:, k])
        if sides[k] > 1:
            groups = patients[known].tolist()
            yield "auc", name, compare_auc(truth[known, k] == 1, p[known, k], q[known, k], groups)


def paired_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows of `paired_rows` as a table for the page."""
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
    titles = ["Model", "Score", "Model's value", "Reference's value", "Difference", "p", "p (Holm)"]
    return Table(titles, cells)


def p_value(p: float) -> str:
    """Format a p-value; values below 0.001 give ``< 0.001``."""
    return "< 0.001" if p < 0.001 else number(p)
