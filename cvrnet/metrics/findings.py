"""Compute the scores of each finding on the images for which it is known, with intervals by resampling patients.

A finding is a disease or sign, such as Edema. An image may have several findings (``task="multilabel"``).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from cvrnet.metrics.bootstrap import as_intervals, group_numbers, ranking, resample
from cvrnet.metrics.calibration import ECE_BINS, bin_numbers
from cvrnet.metrics.scores import json_tree, ratio

Table = NDArray[np.float64]
SCORES = ("roc_auc", "average_precision", "brier_score", "expected_calibration_error")


def finding_rankings(truth: Table, probabilities: Table) -> Table:
    """Return the AUC of each finding that is present in some images and absent in others, from tables (N, C).

    Other findings are left out. ``truth`` is 1, 0, or NaN where a finding is not known.
    """
    found = []
    for values, p in zip(truth.T, probabilities.T, strict=True):
        known = ~np.isnan(values)
        if {0.0, 1.0} <= {*values[known].tolist()}:
            found.append(sk.roc_auc_score(values[known], p[known]))
    return np.array(found)


def finding_scores(
    truth: Table,
    probabilities: Table,
    names: Sequence[str],
    groups: Sequence[Hashable] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all scores of the predictions of findings, ready for JSON.

    The keys are ``findings`` (their names), ``n`` and ``patients`` (the numbers of images and patients), ``macro`` (the
    means over the findings that are scored), ``per_finding`` (``positives``, ``negatives``, ``unknown`` and `SCORES`),
    ``intervals`` with the 95 % intervals of ``macro`` and ``per_finding``, and ``left_out``: the findings that are
    present in all images for which they are known, or in none.

    - AUC and average precision are as in scikit-learn.
    - brier_score is the mean of (p - y)^2, where p is the probability and y the truth (1 or 0).
      expected_calibration_error compares p with the frequency of the finding, in 15 bins of equal width.
    - Intervals resample patients (see `cvrnet.metrics.bootstrap_intervals`), with the same resamples for all findings.

    Args:
        truth: 1, 0, or NaN where a finding is not known, (N, C).
        probabilities: (N, C).
        names: Names of the findings.
        groups: The patient of each image.
        n: Number of resamples.
        seed: Seed of the random draws.

    >>> scores = finding_scores(np.array([[1, 0], [0, 0], [1, np.nan]]), np.full((3, 2), 0.5), ["Edema", "Mass"])
    >>> scores["per_finding"]["Edema"]["roc_auc"], scores["left_out"]
    (0.5, ['Mass'])
    """
    members = group_numbers(groups, len(truth))
    whole = [np.ones((1, len(truth)))]
    drawn = resample(members, int(members.max()) + 1, n, seed)
    point = next(_weighted(truth, probabilities, names, whole))
    chunks = list(_weighted(truth, probabilities, names, drawn))
    counts = {
        name: {"positives": int((v == 1).sum()), "negatives": int((v == 0).sum()), "unknown": int(np.isnan(v).sum())}
        for name, v in zip(names, truth.T, strict=True)
    }
    scored = point["per_finding"]
    value = json_tree({key: {inner: x[0] for inner, x in part.items()} for key, part in scored.items()})
    spread = as_intervals(chunks, few=int(members.max()) < 1)
    return {
        "findings": list(names),
        "n": len(truth),
        "patients": int(members.max()) + 1,
        "macro": json_tree({key: x[0] for key, x in point["macro"].items()}),
        "per_finding": {name: {**counts[name], **value.get(name, dict.fromkeys(SCORES))} for name in names},
        "intervals": {
            "macro": spread["macro"],
            "per_finding": {name: spread["per_finding"].get(name, dict.fromkeys(SCORES)) for name in names},
            "bootstrap": {"resamples": n, "groups": int(members.max()) + 1, "seed": seed, "level": 0.95},
        },
        "left_out": [name for name in names if name not in scored],
    }


def _weighted(
    truth: Table, probabilities: Table, names: Sequence[str], draws: Sequence[Table] | Iterator[Table]
) -> Iterator[dict[str, Any]]:
    """Yield the weighted scores for each array of sample weights (b, N) in ``draws``.

    The scores are a nested dictionary of arrays (b,), NaN where undefined. Findings that are present in all images, or
    in none, are left out.
    """
    for weights in draws:
        scores = {}
        for name, values, p in zip(names, truth.T, probabilities.T, strict=True):
            known = ~np.isnan(values)
            y, q, w = values[known], p[known], weights[:, known]
            if not {0.0, 1.0} <= {*y.tolist()}:
                continue
            auc, precision = ranking(y == 1, q, w)
            bins = np.eye(ECE_BINS)[bin_numbers(q, ECE_BINS)]
            total = w.sum(1)
            gaps = np.abs(w @ (bins * (y - q)[:, None])).sum(1)
            brier = w @ (q - y) ** 2
            scores[name] = dict(zip(SCORES, (auc, precision, ratio(brier, total), ratio(gaps, total)), strict=True))
        macro = {key: _mean([part[key] for part in scores.values()], len(weights)) for key in SCORES}
        yield {"macro": macro, "per_finding": scores}


def _mean(parts: Sequence[Table], length: int) -> Table:
    """Return the mean over the findings for which the score is defined."""
    table = np.array(parts).reshape(-1, length)
    defined = ~np.isnan(table)
    return ratio(np.where(defined, table, 0).sum(0), defined.sum(0))
