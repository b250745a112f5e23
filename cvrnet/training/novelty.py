"""Fit a model's novelty head (`cvrnet.heads.novelty`), which measures how unusual an image is."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor

from cvrnet.heads.novelty import NoveltyHead, join_inputs
from cvrnet.metrics.novelty import FALSE_ALARMS, distance_quantiles

MOST_DIRECTIONS = 64  # largest number of directions of the novelty head; chosen by measurement from 8 to 128
LEAST_IMAGES = 20  # with fewer training or validation images, nothing is fitted
LARGEST_SHARE = 0.05  # largest size of the novelty head, as a share of the size of the model's weights
LEAST_SPREAD = 1e-4  # if no feature varies more than this, the variation is rounding errors, and nothing is fitted
# The detection of mirrored images may cause this part of FALSE_ALARMS; chosen by measurement from 0.01 to 0.045.
SIDE_ALARMS = 0.015
# If at most this share of the validation images get a value below 0 (not mirrored), mirrored images are not detected.
LEAST_TOLD = 0.9


def fit_novelty(train: list[Tensor], validation: list[Tensor], weight_bytes: int) -> NoveltyHead | None:
    """Fit a novelty head to the inputs that the heads of a model get for training and validation images.

    The novelty head computes an image's distance from the training images. Only the training images determine how the
    distance is computed. The quantiles of the distances, and so the limit for unusual images, come from the validation
    images.

    Args:
        train: inputs of the model's heads for N training images: a tensor (N, C_i) for each head.
        validation: inputs of the model's heads for validation images, which are of other patients.
        weight_bytes: size of the model's weights in bytes; the novelty head takes at most a twentieth of it.

    Returns:
        The novelty head. None if there are too few images, if even the smallest head would be too large (see
        ``weight_bytes``), or if the inputs for the training images hardly vary (possible for an untrained network).
    """
    if min(len(train[0]), len(validation[0])) < LEAST_IMAGES:
        return None
    x = join_inputs(train).double().numpy()
    count = min(MOST_DIRECTIONS, len(x) // 2, int(LARGEST_SHARE * weight_bytes / (2 * x.shape[1])) - 4, x.shape[1] - 1)
    if count < 1 or np.ptp(x, axis=0).max() < LEAST_SPREAD:
        return None
    pca = PCA(count, svd_solver="full").fit(x)
    if not pca.noise_variance_ > 0:
        return None
    tensors = [torch.from_numpy(np.asarray(v)).float() for v in (pca.mean_, pca.components_, pca.explained_variance_)]
    mean, directions, variances = tensors
    # The numbers are rounded as in the file, so that the quantiles fit the distances of the saved head.
    head = NoveltyHead(
        mean.half(), directions.half(), variances, torch.tensor(float(pca.noise_variance_)), torch.zeros(2)
    )
    head.quantiles = torch.from_numpy(distance_quantiles(head.distance(validation).numpy())).float()
    return head


def fit_sides(
    head: NoveltyHead, train: Tensor, mirrored: Tensor, validation: Tensor, inputs: list[Tensor]
) -> NoveltyHead:
    """Add the detection of mirrored images to a novelty head: a ridge regression on left-right differences.

    These are differences between the left and the right half of the feature maps. The regression learns the value 1 for
    mirrored images, and -1 for other images. The validation images are not mirrored, so their values should be
    negative. If the share of negative values is at most `LEAST_TOLD`, the regression cannot detect mirrored images, for
    example because left and right look alike in all images. The head then stays unchanged.

    Otherwise, the regression is shifted so that the median of its values for the validation images is 0. Let d be the
    1 - (`FALSE_ALARMS` - `SIDE_ALARMS`) quantile of the validation images' distances. The regression is scaled so that
    a share `SIDE_ALARMS` of the validation images gets values above d.

    Args:
        head: the result of `fit_novelty`.
        train: left-right differences of N training images, from `cvrnet.heads.novelty.join_sides`: (N, 2 D), where D
            is the number of channels of all heads' maps.
        mirrored: left-right differences of some training images after mirroring.
        validation: left-right differences of validation images.
        inputs: inputs of the model's heads for these validation images.

    Returns:
        The head with the detection, or ``head`` itself.
    """
    films, others, new = (part.double().numpy() for part in (train, mirrored, validation))
    x, y = np.concatenate([films, others]), np.repeat([-1.0, 1.0], [len(films), len(others)])
    spread = x.var(0).sum()
    if not spread > 0:
        return head
    ridge = Ridge(spread).fit(x, y, np.where(y > 0, len(x) / len(others), len(x) / len(films)) / 2)
    scores = ridge.predict(new)
    typical, high = np.quantile(scores, [0.5, 1 - SIDE_ALARMS])
    if np.mean(scores < 0) <= LEAST_TOLD or not high > typical:
        return head
    distance = np.quantile(head.distance(inputs).numpy(), 1 - (FALSE_ALARMS - SIDE_ALARMS))
    scale = distance / (high - typical)
    weights = torch.from_numpy(scale * ridge.coef_).half()
    if not weights.isfinite().all():
        return head
    tensors = {"side_weights": weights, "side_bias": torch.tensor(scale * (ridge.intercept_ - typical))}
    found = NoveltyHead(**{**dict(head.named_buffers()), **tensors})
    return found.with_quantiles(torch.from_numpy(distance_quantiles(found(inputs, validation).numpy())))
