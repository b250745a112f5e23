"""What averaging the heads gains: each head's accuracy beside the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cvrnet.metrics import mean_std


def head_rows(folds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each head, the mean of the heads, the best of them, and the average that the model answers with.

    ``accuracy`` and ``std`` are the mean and standard deviation over the folds (std None for a single one). The best
    head has the highest mean over the folds. It is chosen on the images that it is scored on, which flatters it.

    Args:
        folds: The scores of each fold; without ``head_accuracy``, of a model without heads, there are no rows.

    >>> fold = {"accuracy": 0.9, "head_accuracy": {"P1": 0.6, "P2": 0.8}}
    >>> [(row["head"], round(row["accuracy"], 2)) for row in head_rows([fold])]
    [('P1', 0.6), ('P2', 0.8), ('mean of the heads', 0.7), ('best head (P2)', 0.8), ('average (the model)', 0.9)]
    """
    if any("head_accuracy" not in fold for fold in folds):
        return []
    names = list(folds[0]["head_accuracy"])
    rows = {name: mean_std([fold["head_accuracy"][name] for fold in folds]) for name in names}
    best = max(names, key=lambda name: rows[name]["mean"])
    rows["mean of the heads"] = mean_std([sum(fold["head_accuracy"].values()) / len(names) for fold in folds])
    rows[f"best head ({best})"] = rows[best]
    rows["average (the model)"] = mean_std([fold["accuracy"] for fold in folds])
    return [
        {"head": name, "accuracy": value["mean"], "std": value["std"] if len(folds) > 1 else None}
        for name, value in rows.items()
    ]
