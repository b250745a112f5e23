"""Measure whether the attention of a model for bags finds the pictures with a known lesion.

A bag holds the pictures of a study or patient, and has one label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def attention_scores(
    shares: Sequence[NDArray[np.float64]], lesions: Sequence[NDArray[np.bool_]]
) -> dict[str, float | int]:
    """Return how well the pictures' shares in a bag's prediction separate pictures with a lesion from the others.

    A bag counts only if some of its pictures have a lesion and others have none.

    Args:
        shares: For each bag, the share of each picture in the prediction, (pictures,).
        lesions: For each bag, whether each picture has a lesion, (pictures,).

    Returns:
        An empty dict if no bag counts; otherwise ``studies``, the number of bags that count, and means over these bags.
        ``roc_auc``: the AUC within a bag. ``top_has_lesion``: 1 if the picture with the largest share has a lesion.
        ``share_of_lesions``: the sum of the shares of the pictures with a lesion. ``pictures_with_lesion``: the
        fraction of pictures with a lesion; with equal shares, ``share_of_lesions`` would have this value.

    >>> scores = attention_scores([np.array([0.7, 0.2, 0.1])], [np.array([True, False, False])])
    >>> scores["studies"], scores["roc_auc"], scores["top_has_lesion"], scores["share_of_lesions"]
    (1, 1.0, 1.0, 0.7)
    """
    bags = [(share, lesion) for share, lesion in zip(shares, lesions, strict=True) if 0 < lesion.sum() < len(lesion)]
    if not bags:
        return {}
    from sklearn.metrics import roc_auc_score  # here, because predictions need no scikit-learn

    return {
        "studies": len(bags),
        "roc_auc": float(np.mean([roc_auc_score(lesion, share) for share, lesion in bags])),
        "top_has_lesion": float(np.mean([lesion[share.argmax()] for share, lesion in bags])),
        "share_of_lesions": float(np.mean([share[lesion].sum() for share, lesion in bags])),
        "pictures_with_lesion": float(np.mean([lesion.mean() for _, lesion in bags])),
    }
