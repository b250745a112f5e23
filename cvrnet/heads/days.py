"""Days as an input of a network: a time encoding, and the change that it makes to the vectors of earlier pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 8
LONGEST = 365.0  # days for one radian of the slowest wave


def encode_days(days: Tensor) -> Tensor:
    r"""The waves :math:`\sin(\omega_k t)` and :math:`1 - \cos(\omega_k t)` of days t (P,): (P, 2 * FREQUENCIES).

    The frequencies fall geometrically from 1 to 1/365 radian a day, as those of positions do in Vaswani et al. 2017
    (section 3.5); t is a number of days, as in Time2Vec (Kazemi et al. 2019). All waves are zero at t = 0.
    """
    rates = torch.exp(torch.linspace(0, -math.log(LONGEST), FREQUENCIES, device=days.device)).to(days.dtype)
    angles = days[:, None] * rates
    return torch.cat([angles.sin(), 1 - angles.cos()], 1)


class DaysModulation(nn.Module):
    r"""Scale and shift each number of a picture's vector by the days from the picture to the last one of its bag.

    .. math:: x + \gamma(t) \odot (x - c) + \beta(t)

    Scale and shift are linear in the waves of `encode_days` (feature-wise linear modulation, Perez et al. 2018), so the
    last picture, and that of a bag of one, stay as they are. A negative scale lets a mean over the pictures contain
    their change. Training starts with both zero.

    Args:
        in_features: Width of the vectors.
    """

    def __init__(self, in_features: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        super().__init__()
        waves = 2 * FREQUENCIES
        self.scale = nn.Linear(waves, in_features, bias=False, device=device, dtype=dtype)
        self.shift = nn.Linear(waves, in_features, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(in_features, device=device, dtype=dtype))

    def forward(self, x: Tensor, days: Tensor) -> Tensor:
        """The changed vectors (P, in_features), from vectors of that shape and days (P,) before the bag's last."""
        waves = encode_days(days.to(x.dtype))
        return x + self.scale(waves) * (x - self.centre) + self.shift(waves)

    @torch.no_grad()
    def fold(self, mean: Tensor, std: Tensor) -> None:
        """Change this module, which had standardised vectors, so that it takes those before the standardisation."""
        self.centre.mul_(std).add_(mean)
        self.shift.weight.mul_(std[:, None])
