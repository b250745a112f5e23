"""Fit the part of a model that knows how unusual an image is (`cvrnet.heads.novelty`)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from cvrnet.heads.novelty import NoveltyHead, distance_quantiles, join_inputs

MOST_DIRECTIONS = 64  # chosen by measurement, of 8 to 128 (docs/decisions.md)
LEAST_IMAGES = 20  # with fewer training or validation images, nothing is fitted
LARGEST_SHARE = 0.05  # of the size of the weights
LEAST_SPREAD = 1e-4  # of a number in the vectors; less is rounding


def fit_novelty(train: list[Tensor], validation: list[Tensor], weight_bytes: int) -> NoveltyHead | None:
    """Fit to the heads' inputs for training and validation images, one (N, C_i) for each head.

    Only the limit depends on the validation images. None is returned if there are too few images, or if the vectors
    hardly vary, as those of an untrained network may.

    Args:
        train: inputs of training images.
        validation: inputs of validation images, from other patients.
        weight_bytes: size of the model's weights, of which the result takes at most a twentieth.
    """
    if min(len(train[0]), len(validation[0])) < LEAST_IMAGES:
        return None
    x = join_inputs(train).double().numpy()
    count = min(MOST_DIRECTIONS, len(x) // 2, int(LARGEST_SHARE * weight_bytes / (2 * x.shape[1])) - 2, x.shape[1] - 1)
    if count < 1 or np.ptp(x, axis=0).max() < LEAST_SPREAD:
        return None
    pca = PCA(count, svd_solver="full").fit(x)
    if not pca.noise_variance_ > 0:
        return None
    tensors = [torch.from_numpy(np.asarray(v)).float() for v in (pca.mean_, pca.components_, pca.explained_variance_)]
    mean, directions, variances = tensors
    # The numbers are rounded as the file will have them, so the quantiles are those of the saved distances.
    head = NoveltyHead(
        mean.half(), directions.half(), variances, torch.tensor(float(pca.noise_variance_)), torch.zeros(2)
    )
    head.quantiles = torch.from_numpy(distance_quantiles(head(validation).numpy())).float()
    return head
