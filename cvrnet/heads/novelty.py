"""Measure how much an image differs from the training images: by its pooled maps, and by whether it is mirrored."""

# Annotations must be types, not strings: FX copies them into its graphs, where TorchScript reads them.
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoveltyHead(nn.Module):
    r"""Computes how much images differ from the training images: the larger of a distance and a mirror value.

    The distance is measured from a Gaussian that was fitted to the pooled maps of training images. Each input of a
    `MultiScaleAveragingHead` is scaled to norm 1; x is their concatenation. The Gaussian comes from probabilistic
    principal component analysis (Tipping & Bishop 1999, J. R. Stat. Soc. B 61:611): variances along K directions, and
    one variance :math:`\sigma^2` for all other directions. The squared distance is

    .. math:: \sum_k \frac{z_k^2}{\lambda_k} + \frac{\lVert x - \mu - W z\rVert^2}{\sigma^2},
              \quad z = W^\top (x - \mu)

    Lee et al. 2018 (NeurIPS) also use a Mahalanobis distance of features to detect unusual images. The head holds
    statistics of many images, but no vector of a single image, so no image can be reconstructed from the head.

    Pooling removes most of the difference between left and right. So the mirror value, which is linear in the `sides`
    of the maps, detects mirrored images: it rises if an image's left half looks like the right half of the training
    images.

    Args:
        mean: :math:`\mu`, (D,); D is the sum of the inputs' widths.
        directions: The K directions as orthonormal rows, (K, D): the transpose of W in the equation.
        variances: :math:`\lambda`, (K,).
        noise: :math:`\sigma^2`, a scalar tensor.
        quantiles: Quantiles of the results for the validation images, (Q,), at equally spaced levels from 0 to 1.
        side_weights: The weights of the mirror value, (2 D,); None: the mirror value is 0, so the result is the
            distance.
        side_bias: The bias of the mirror value, a scalar tensor.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor
    quantiles: Tensor
    side_weights: Tensor
    side_bias: Tensor

    def __init__(
        self,
        mean: Tensor,
        directions: Tensor,
        variances: Tensor,
        noise: Tensor,
        quantiles: Tensor,
        side_weights: Tensor | None = None,
        side_bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions.float())
        self.register_buffer("variances", variances.float())
        self.register_buffer("noise", noise.float())
        self.register_buffer("quantiles", quantiles.float())
        self.register_buffer(
            "side_weights", torch.zeros(2 * len(mean)) if side_weights is None else side_weights.float()
        )
        self.register_buffer("side_bias", torch.zeros(()) if side_bias is None else side_bias.float())

    def with_quantiles(self, quantiles: Tensor) -> "NoveltyHead":
        """Return a copy of the head, with these ``quantiles`` instead of the head's own (see the class)."""
        return NoveltyHead(**{**dict(self.named_buffers()), "quantiles": quantiles})

    def forward(self, inputs: list[Tensor], sides: Tensor) -> Tensor:
        """Return how much each image differs from the training images, (N,).

        This is the larger of the `distance` and the mirror value (see the class).

        Args:
            inputs: The pooled maps of the images for each head of the network, (N, C_i), as from `CVRNet.pool_maps`.
            sides: The result of `map_sides` for the images, (N, 2 D).
        """
        return torch.maximum(self.distance(inputs), sides @ self.side_weights + self.side_bias)

    def distance(self, inputs: list[Tensor]) -> Tensor:
        """Return the Mahalanobis distance of each image from the Gaussian, (N,). `forward` also uses a mirror value."""
        centred = join_inputs(inputs) - self.mean
        z = centred @ self.directions.T
        rest = (centred - z @ self.directions).square().sum(1)
        return ((z.square() / self.variances).sum(1) + rest / self.noise).sqrt()


def join_inputs(inputs: list[Tensor]) -> Tensor:
    """Scale each input, (N, C_i), to norm 1; return the concatenated inputs, which are the vectors x, (N, D)."""
    return torch.cat([F.normalize(x, dim=1) for x in inputs], 1)


def sides(feature_map: Tensor) -> Tensor:
    """Return the difference between a map's left and right half, divided by the norm of their sum: (N, 2, C).

    The map is (N, C, H, W). Each quarter of it is averaged to a vector of C numbers. The difference (left - right) is
    taken separately in the upper and the lower half, because the heart is in the lower half. Both differences have the
    same divisor: the Euclidean norm of the mean of the two sums (left + right), upper and lower. If W is odd, the
    middle column is left out; if H is odd and not 1, the middle row, too. If W is 1, the result is 0.
    """
    height, width = feature_map.shape[2:]
    if width == 1:
        return torch.zeros_like(feature_map[:, :, :1, 0].mT).expand(-1, 2, -1)
    upper, left = max(height // 2, 1), width // 2
    rows = [feature_map[:, :, :upper].mean(2), feature_map[:, :, -upper:].mean(2)]
    a, b = (torch.stack([row[..., part].mean(2) for row in rows], 1) for part in (slice(left), slice(-left, None)))
    return (a - b) / (a + b).mean(1, keepdim=True).norm(dim=2, keepdim=True).clamp_min(1e-12)


def join_sides(of_maps: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the vectors (N, 2 D) for detecting mirrored images: the `sides` of all maps, concatenated.

    ``groups`` has one list for each head of the network: the indices of this head's maps. Each vector has the maps of
    the first head first, then those of the second head, and so on.
    """
    return torch.cat([of_maps[i] for group in groups for i in group], 2).flatten(1)


def map_sides(maps: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """Like `join_sides`, but computes the vectors (N, 2 D) directly from the maps (N, C_i, H_i, W_i)."""
    return join_sides([sides(m) for m in maps], groups)
