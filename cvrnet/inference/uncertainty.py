"""How unsure the members of an ensemble are, and how far they disagree; in nats.

The members of a run are its folds, and of CVR-Nets each head of each fold: folds times heads. Their mean probability is
the prediction. Its entropy is all the uncertainty there is (Lakshminarayanan et al., "Simple and Scalable Predictive
Uncertainty Estimation using Deep Ensembles", NeurIPS 2017); what remains when the members' own mean entropy is taken
away is their disagreement: the mutual information of prediction and member (Houlsby et al., "Bayesian Active Learning
for Classification and Preference Learning", 2011, equation 2, known as BALD).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
UNCERTAINTY = ("predictive_entropy", "mutual_information")
"""What a prediction says of it, and the columns of tables."""


def entropy(probabilities: Array) -> Array:
    """Entropy in nats over the last axis: 0 for a certain answer, ``log(C)`` where all C classes are equally probable.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(4).tolist()
    [0.6931, 0.0]
    """
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.maximum(-(probabilities * logs).sum(-1), 0.0)


def predictive_entropy(members: Array) -> Array:
    """Entropy of the members' mean probability.

    Args:
        members: Each member's probabilities, (members, ..., C).

    Returns:
        (...), from 0 to ``log(C)``.
    """
    return entropy(members.mean(0))


def mutual_information(members: Array) -> Array:
    """Disagreement: the mean's entropy less the members' mean entropy. One member alone cannot disagree: 0.

    Args:
        members: Each member's probabilities, (members, ..., C).

    Returns:
        (...), from 0, where all members say the same, to the predictive entropy, where each is certain.

    >>> mutual_information(np.array([[1.0, 0.0], [0.0, 1.0]])).round(4)
    np.float64(0.6931)
    >>> mutual_information(np.array([[0.5, 0.5], [0.5, 0.5]]))
    np.float64(0.0)
    """
    return np.maximum(predictive_entropy(members) - entropy(members).mean(0), 0.0)
