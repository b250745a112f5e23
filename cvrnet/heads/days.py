"""Let a network use the time between the pictures of a bag: encode days as waves; compare the last picture with others.

A bag holds the pictures of a study or patient (see `cvrnet.data.studies`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

FREQUENCIES = 8
WAVES = 2 * FREQUENCIES
LONGEST = 365.0  # days for one radian of the slowest wave


def encode_days(days: Tensor) -> Tensor:
    r"""Encode days t, (P,), as the waves :math:`\sin(\omega_k t)` and :math:`1 - \cos(\omega_k t)`; return (P, WAVES).

    The frequencies fall geometrically from 1 to 1/365 radian per day, as in the position encoding of Vaswani et al.
    2017 (section 3.5). Here t is a time, as in Time2Vec (Kazemi et al. 2019): the number of days from each of the P
    pictures to the last picture of its bag. All waves are zero at t = 0.
    """
    rates = torch.exp(torch.linspace(0, -math.log(LONGEST), FREQUENCIES, device=days.device)).to(days.dtype)
    angles = days[:, None] * rates
    return torch.cat([angles.sin(), 1 - angles.cos()], 1)


class ChangeToLast(nn.Module):
    r"""Computes how the last picture of a bag differs from each picture, weighted by the days between them.

    .. math:: d_k = (1 + S \tau(t_k)) \odot (x_\mathrm{last} - x_k)

    where x_k is the vector of picture k, t_k the number of days from picture k to the last picture, :math:`\tau` is
    `encode_days` (feature-wise modulation, Perez et al. 2018), and S is a learned matrix that starts at zero. If
    several pictures are of the last day, x_last is the mean of their vectors. The change d_k is zero for all pictures
    of the last day, and therefore for a bag of one picture.

    Args:
        in_features: Width of the vectors x_k.
    """

    def __init__(self, in_features: int, **placement: Any) -> None:
        super().__init__()
        self.scale = nn.Linear(WAVES, in_features, bias=False, **placement)
        nn.init.zeros_(self.scale.weight)

    def forward(self, x: Tensor, bag: Tensor, count: int, days: Tensor) -> Tensor:
        """Return the weighted differences d_k, (P, in_features); the arguments are as in `BagPool.forward`."""
        last = (days == 0).to(x.dtype)
        number = last.new_zeros(count).index_add(0, bag, last)
        mean = x.new_zeros(count, x.shape[1]).index_add(0, bag, last[:, None] * x) / number[:, None]
        changes: Tensor = (1 + self.scale(encode_days(days.to(x.dtype)))) * (mean[bag] - x)
        return changes * (1 - last[:, None])
