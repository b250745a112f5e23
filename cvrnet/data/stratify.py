"""Make folds in which every finding is about equally frequent: iterative stratification of patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def iterative_folds(counts: NDArray[np.float64], n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold, 1 to ``n_folds``, of each patient, by iterative stratification.

    The algorithm is that of Sechidis et al. 2011 (ECML PKDD, Fig. 1). Every fold should get an equal share of the
    images of each finding. In each round, take the finding with the fewest images left. Give each remaining patient
    with this finding to the fold that still needs the most images of the finding. If several folds need equally many,
    take the one that needs the most images in total; if there are still several, take one of them at random.

    Args:
        counts: (P, C + 1): for each of P patients, the number of images with each of C findings and, in the last
            column, the number of all images. A source can be counted like a finding.
        n_folds: Number of folds.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(counts), np.int64)
    lacking = np.repeat(counts.sum(0)[None] / n_folds, n_folds, axis=0)  # (folds, C + 1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order, -1], kind="stable")]  # patients of many images, hard to place, come first
    while (folds == 0).any():
        left = counts[folds == 0].sum(0)
        findings = np.flatnonzero(left[:-1] > 0)
        column = int(findings[np.argmin(left[findings])]) if len(findings) else -1
        for patient in order[(folds[order] == 0) & (counts[order, column] > 0)]:
            best = max(range(n_folds), key=lambda f: (lacking[f, column], lacking[f, -1], rng.random()))
            folds[patient] = best + 1
            lacking[best] -= counts[patient]
    return folds
