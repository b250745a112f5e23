"""How far an image is from the training images: the Mahalanobis distance of its pooled feature maps."""

# Annotations must be types, not strings: FX copies them into its graphs, where TorchScript reads them.
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

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

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The distances (N,) of images, from the inputs of their heads: pooled maps (N, C_i), P1 first."""
        centred = join_inputs(inputs) - self.mean
        z = centred @ self.directions.T
        rest = (centred - z @ self.directions).square().sum(1)
        return ((z.square() / self.variances).sum(1) + rest / self.noise).sqrt()


def unlike(distances: ArrayLike, quantiles: ArrayLike) -> NDArray[np.float64]:
    """The share of the validation images that are nearer to the training images, for distances (N,).

    ``quantiles`` are those of a `NoveltyHead`, (Q,).

    >>> unlike([0.0, 1.5, 9.0], [1.0, 2.0, 4.0])
    array([0.  , 0.25, 1.  ])
    """
    steps = np.asarray(quantiles, np.float64)
    return np.interp(np.asarray(distances, np.float64), steps, np.linspace(0, 1, len(steps)))


def is_marked(shares: NDArray[np.float64] | np.float64) -> NDArray[np.bool_] | np.bool_:
    """Whether images are marked as unusual, by the results of `unlike`."""
    return shares > 1 - FALSE_ALARMS


def join_inputs(inputs: list[Tensor]) -> Tensor:
    """The vectors (N, D) whose distribution is learned: each input (N, C_i) has length 1, then all are concatenated."""
    return torch.cat([F.normalize(x, dim=1) for x in inputs], 1)
