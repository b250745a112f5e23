"""Compute the uncertainty of an ensemble, in nats: predictive entropy, and disagreement between the members.

The members are the folds of a run; for CVR-Nets, each head of each fold is a member. The prediction is the mean of the
members' probabilities. The entropy of this mean is the total uncertainty (Lakshminarayanan et al., "Simple and Scalable
Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017). This entropy minus the mean of the members'
entropies is the members' disagreement: the mutual information of prediction and member (Houlsby et al., "Bayesian
Active Learning for Classification and Preference Learning", 2011, equation 2, known as BALD).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvrnet.metrics.abstention import entropy

Array = NDArray[np.float64]
UNCERTAINTY = ("predictive_entropy", "mutual_information")  # attributes of a `Prediction`, and columns of tables


def with_complements(probabilities: Array) -> Array:
    """Return the probabilities that findings are present and absent, (..., C, 2), from probabilities (..., C)."""
    return np.stack([probabilities, 1 - probabilities], -1)


def mutual_information(members: Array) -> Array:
    """Return the members' disagreement: the entropy of their mean minus the mean of their entropies.

    `members` has each member's probabilities, (members, ..., C); the result is (...). The result is 0 if all members
    agree. If each member is certain, the result is the predictive entropy.
    """
    return np.maximum(entropy(members.mean(0)) - entropy(members).mean(0), 0.0)


def uncertainty(mean: Array, members: Array, task: str) -> tuple[Array, Array]:
    """Return the predictive entropy and the mutual information of each image, (N,).

    ``mean`` has the ensemble's probabilities, (N, C); ``members`` has each member's probabilities, (members, N, C).
    With ``task="multilabel"``, both results are sums over the findings.
    """
    if task == "multiclass":
        return entropy(mean), mutual_information(members)
    mean, members = with_complements(mean), with_complements(members)
    return entropy(mean).sum(-1), mutual_information(members).sum(-1)
