"""Compare a soup with its folds; a soup is a network with the mean of the folds' weights (`cvrnet.workflows.soup`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cvrnet.metrics import classification_scores
from cvrnet.metrics.bootstrap import mean_interval
from cvrnet.metrics.findings import finding_rankings
from cvrnet.metrics.paired_models import compare_mean_auc
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.runs.predictions import AnyTable

LOSS = 0.02
"""Non-inferiority margin: the largest accepted loss of accuracy or mean AUC.

The soup is not inferior if the lower end of the difference's 95 % interval is above ``-LOSS``.
"""


def compare_soup(tables: Mapping[str, AnyTable], honest: bool) -> tuple[list[dict[str, Any]], str]:
    """Return the scores of each fold, their ensemble and the soup (one row each), and a verdict on the soup.

    ``tables`` has the predictions of each fold and, last, those of the soup.

    The verdict compares the soup's accuracy (for findings: mean AUC) with the mean over its folds, and gives the 95 %
    interval of the difference. The images of one patient are not treated as independent. ``honest`` means that no fold
    was trained on the images.
    """
    *folds, soup = tables.values()
    *names, kind = tables
    ensemble = replace(soup, probabilities=np.mean([table.probabilities for table in folds], axis=0))
    every = {**dict(zip(names, folds, strict=True)), "ensemble": ensemble, kind: soup}
    several = isinstance(soup, FindingTable)
    scores = {name: _finding_scores(table) if several else _class_scores(table) for name, table in every.items()}
    rows = [{"model": name, "images": len(soup.names), **found} for name, found in scores.items()]
    title, key = ("mean AUC", "auc_macro") if several else ("accuracy", "accuracy")
    mean = float(np.mean([scores[name][key] for name in names]))
    difference = scores[kind][key] - mean
    low, high = (_auc_interval if several else _accuracy_interval)(soup, folds)
    if high < 0:
        verdict = "the soup is clearly worse than its folds"
    elif not honest:
        verdict = "the soup is not clearly worse than its folds, but this was measured on images that it was trained on"
    elif low > -LOSS:
        verdict = f"the soup is not inferior: it is less than {LOSS:.0%} worse than its folds"
    else:
        verdict = f"too few images ({len(soup.names):,}) to show whether the soup is worse than its folds"
    return rows, (
        f"{verdict}: {title} {scores[kind][key]:.3f}, its folds' mean {mean:.3f} (difference {difference:+.3f}, "
        f"95 % interval {low:+.3f} to {high:+.3f}), their ensemble {scores['ensemble'][key]:.3f}"
    )


def _class_scores(table: Any) -> dict[str, float]:
    found = classification_scores(table.labels, table.probabilities, table.classes)
    row = {key: found[key] for key in ("accuracy", "balanced_accuracy")}
    row |= {"f1_macro": found["macro"]["f1"], "auc_macro": found["macro"]["roc_auc"]}
    return row | {"log_loss": found["log_loss"]}


def _finding_scores(table: Any) -> dict[str, float]:
    """Return the mean AUC over the findings, and the mean of (p - y)^2 over all known labels y."""
    rankings = finding_rankings(table.labels, table.probabilities)
    brier = float(np.nanmean((table.probabilities - table.labels) ** 2))
    return {"auc_macro": float(rankings.mean()) if rankings.size else float("nan"), "brier_score": brier}


def _accuracy_interval(soup: Any, folds: Sequence[Any]) -> Sequence[float]:
    """Return the 95 % interval of the soup's accuracy minus the mean accuracy of its folds."""
    hits = np.mean([table.guesses == table.labels for table in folds], axis=0)
    return mean_interval((soup.guesses == soup.labels) - hits, soup.groups)[1] or (-1.0, 1.0)


def _auc_interval(soup: Any, folds: Sequence[Any]) -> Sequence[float]:
    """Return the 95 % interval of the soup's mean AUC minus the mean over its folds.

    A finding is used only if at least two patients have it and at least two patients lack it.
    """
    chosen = [k for k in range(len(soup.classes)) if min(soup.sides(k)) > 1]
    if not chosen:
        return -1.0, 1.0
    others = np.stack([table.probabilities[:, chosen] for table in folds])
    test = compare_mean_auc(soup.labels[:, chosen], soup.probabilities[:, chosen], others, soup.groups)
    return test["low"], test["high"]
