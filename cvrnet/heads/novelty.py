"""How far an image is from the training images: the Mahalanobis distance of its pooled feature maps."""

# Annotations must be types, not strings: FX copies them into its graphs, where TorchScript reads them.
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

STEPS = 200  # of the quantiles
FALSE_ALARMS = 0.05  #: the share of the validation images that is marked as unlike the training images


class NoveltyHead(nn.Module):
    r"""Distance of images from a Gaussian that was fitted to the pooled maps of training images.

    The inputs of a `MultiScaleAveragingHead` are each scaled to length 1 and concatenated to x. The Gaussian is that of
    probabilistic principal component analysis (Tipping & Bishop 1999, J. R. Stat. Soc. B 61:611): variances along K
    directions, and one variance :math:`\sigma^2` for all others. The squared distance is

    .. math:: \sum_k \frac{z_k^2}{\lambda_k} + \frac{\lVert x - \mu - W z\rVert^2}{\sigma^2},
              \quad z = W^\top (x - \mu)

    A distance in feature space as a sign of unusual images: Lee et al. 2018, NeurIPS. Only the mean and K directions of
    many images are kept, and no vector of any image, so no image can be reconstructed from them.

    Args:
        mean: (D,), where D is the sum of the inputs' widths.
        directions: W, with orthonormal rows, (K, D).
        variances: :math:`\lambda`, (K,).
        noise: :math:`\sigma^2`, a tensor of no dimensions.
        quantiles: Quantiles of the distances of the validation images, in equal steps from 0 to 1.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor
    quantiles: Tensor

    def __init__(self, mean: Tensor, directions: Tensor, variances: Tensor, noise: Tensor, quantiles: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions.float())
        self.register_buffer("variances", variances.float())
        self.register_buffer("noise", noise.float())
        self.register_buffer("quantiles", quantiles.float())

    def with_quantiles(self, quantiles: Tensor) -> "NoveltyHead":
        """The same distance, compared with the distances of other images."""
        return NoveltyHead(self.mean, self.directions, self.variances, self.noise, quantiles)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The distances (N,) of images, from the inputs of their heads: pooled maps (N, C_i), P1 first."""
        centred = join_inputs(inputs) - self.mean
        z = centred @ self.directions.T
        rest = (centred - z @ self.directions).square().sum(1)
        return ((z.square() / self.variances).sum(1) + rest / self.noise).sqrt()


def distance_quantiles(distances: ArrayLike) -> NDArray[np.float64]:
    """The quantiles for `NoveltyHead`, (201,), by the distances (N,) of images from where new images will come from.

    One point beyond all others is added, as in split conformal prediction. Then a new image from there is above the
    quantile q with a probability of at most 1 - q, however few the images are.
    """
    known = np.asarray(distances, np.float64)
    return np.quantile(np.append(known, 2 * known.max()), np.linspace(0, 1, STEPS + 1))


def unlike(distances: ArrayLike, quantiles: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """The share of the validation images that are nearer to the training images: (N,), the mean over F models.

    Args:
        distances: From the training images of each model, (N, F).
        quantiles: Those of each model's `NoveltyHead`, F times (Q,).

    >>> unlike([[0.0], [1.5], [9.0]], [[1.0, 2.0, 4.0]])
    array([0.  , 0.25, 1.  ])
    """
    table = np.asarray(distances, np.float64)
    steps = [np.asarray(q, np.float64) for q in quantiles]
    shares = [np.interp(d, q, np.linspace(0, 1, len(q))) for d, q in zip(table.T, steps, strict=True)]
    return np.mean(shares, axis=0)


def is_marked(shares: ArrayLike) -> NDArray[np.bool_]:
    """Whether images are marked as unusual, by the results of `unlike`."""
    return np.asarray(shares, np.float64) > 1 - FALSE_ALARMS


def join_inputs(inputs: list[Tensor]) -> Tensor:
    """The vectors (N, D) whose distribution is learned: each input (N, C_i) has length 1, then all are concatenated."""
    return torch.cat([F.normalize(x, dim=1) for x in inputs], 1)
