"""A head for bags: one prediction for several pictures, such as the slices of a CT or radiographs of several days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvrnet.heads.days import WAVES, ChangeToLast, encode_days
from cvrnet.heads.multiscale import MultiScaleAveragingHead

POOLINGS = ("attention", "mean", "max")
UNITS = ("image", "study", "patient")
"""What one prediction is about: one picture, or the bag of all pictures of a study or patient."""
HIDDEN = 128  # width of the attention's hidden layer (Ilse et al. 2018 use 64 to 512)


class Bags(NamedTuple):
    """The pictures of N bags, one bag after the other."""

    vectors: Tensor  #: the vectors of all P pictures, (P, width)
    sizes: Tensor  #: number of pictures of each bag, at least 1, (N,)
    days: Tensor  #: number of days from each picture to the last picture of its bag, (P,)

    def to(self, device: torch.device) -> Bags:
        """Return the bags on a device."""
        return Bags(*(part.to(device, non_blocking=True) for part in self))


class BagPool(nn.Module):
    r"""Pool the vectors of a bag's pictures to one vector.

    ``attention`` is the gated attention of Ilse et al. 2018 (eq. 9): the weighted mean of the vectors, with the weights

    .. math:: a_k = \mathrm{softmax}_k\, w^\top (\tanh(V x_k) \odot \sigma(U x_k))

    ``mean`` and ``max`` are the mean and the maximum of the vectors, feature by feature. For a bag of one picture, the
    result is exactly the vector of this picture (with ``time``, followed by zeros).

    With ``time``, the days of the pictures have two effects. For ``attention``, the waves of `encode_days` are a
    further input of V and U, with weights that start at zero. For every pooling, the difference between the last
    picture and each picture (`ChangeToLast`) is pooled like the vectors, and appended to the result. Without ``time``,
    the order of the pictures has no effect.

    Args:
        in_features: Width of the vectors.
        pooling: One of `POOLINGS`.
        time: Whether to use the days of the pictures.
    """

    def __init__(self, in_features: int, pooling: str, time: bool, **placement: Any) -> None:
        super().__init__()
        self.pooling = pooling
        self.change = ChangeToLast(in_features, **placement) if time else None
        if time and pooling == "attention":
            self.when = nn.Linear(WAVES, 2 * HIDDEN, bias=False, **placement)
            nn.init.zeros_(self.when.weight)
        if pooling == "attention":
            self.content = nn.Linear(in_features, HIDDEN, **placement)
            self.gate = nn.Linear(in_features, HIDDEN, **placement)
            self.score = nn.Linear(HIDDEN, 1, bias=False, **placement)
            for layer in (self.content, self.gate, self.score):
                nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(self.content.bias)
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor, bag: Tensor, count: int, days: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the bags, (count, in_features), and each picture's share in its bag's vector, (P,).

        If the pool was made with ``time``, the vectors are twice as wide. The shares of a bag add up to 1. With
        ``attention`` and ``mean``, they are the weights of the pictures. With ``max``, a picture's share is the part of
        the vector's features whose maximum comes from this picture.

        Args:
            x: The vectors of all pictures, (P, in_features).
            bag: The index of each picture's bag, (P,).
            count: Number of bags.
            days: Number of days from each picture to the last picture of its bag, (P,).
        """
        scores = self._scores(x, days) if self.pooling == "attention" else x.new_zeros(len(x))
        if self.change is not None:
            x = torch.cat([x, self.change(x, bag, count, days)], 1)
        if self.pooling == "max":
            return _maximum(x, bag, count)
        shares = _softmax(scores, bag, count)
        return x.new_zeros(count, x.shape[1]).index_add(0, bag, shares[:, None] * x), shares

    def _scores(self, x: Tensor, days: Tensor) -> Tensor:
        content, gate = self.content(x), self.gate(x)
        if self.change is not None:
            by_day = self.when(encode_days(days.to(x.dtype)))
            content, gate = content + by_day[:, :HIDDEN], gate + by_day[:, HIDDEN:]
        scores: Tensor = self.score(content.tanh() * gate.sigmoid())
        return scores[:, 0]

    @torch.no_grad()
    def fold(self, mean: Tensor, std: Tensor) -> None:
        """Fold a standardisation of the vectors, by mean and std (in_features,), into the layers V and U.

        V and U then take vectors that are not standardised. Only ``attention`` has these layers.
        """
        for layer in (self.content, self.gate) if self.pooling == "attention" else ():
            layer.weight.div_(std)
            layer.bias.sub_(layer.weight @ mean)


def _softmax(scores: Tensor, bag: Tensor, count: int) -> Tensor:
    """Return the softmax of scores (P,) over the pictures of each bag."""
    highest = scores.detach().new_full((count,), -torch.inf).scatter_reduce(0, bag, scores.detach(), "amax")
    powers = (scores - highest[bag]).exp()
    return powers / powers.new_zeros(count).index_add(0, bag, powers)[bag]


def _maximum(x: Tensor, bag: Tensor, count: int) -> tuple[Tensor, Tensor]:
    places = bag[:, None].expand_as(x)
    highest = x.new_full((count, x.shape[1]), -torch.inf).scatter_reduce(0, places, x, "amax")
    from_here = (x == highest[bag]).to(x.dtype)
    ties = torch.zeros_like(highest).index_add(0, bag, from_here)
    return highest, (from_here / ties[bag]).mean(1)


class BagHead(MultiScaleAveragingHead):
    """A `MultiScaleAveragingHead` for bags: each block gets one vector, pooled from the vectors of a bag's pictures.

    `bag_logits` pools bags. ``forward`` takes each picture as a bag of one picture, and pools nothing.

    Args:
        in_features, num_classes, hidden_sizes: As in `MultiScaleAveragingHead`.
        pooling, time: As in `BagPool`.
        further: Other arguments of `MultiScaleAveragingHead`.

    Raises:
        ValueError: The pooling is unknown, or `MultiScaleAveragingHead` refuses another argument.

    >>> head = BagHead([64, 128], num_classes=3)
    >>> slices = [torch.randn(30, 64), torch.randn(30, 128)]  # of two CTs, with 10 and 20 slices
    >>> logits, shares = head.bag_logits(slices, torch.tensor([10, 20]))
    >>> [tuple(z.shape) for z in logits], tuple(shares.shape)
    ([(2, 3), (2, 3)], (2, 30))
    """

    def __init__(
        self,
        in_features: Sequence[int],
        num_classes: int,
        hidden_sizes: Sequence[int] = (512, 128, 64),
        pooling: str = "attention",
        time: bool = False,
        **further: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}; expected {', '.join(POOLINGS)}")
        super().__init__([n * (2 if time else 1) for n in in_features], num_classes, hidden_sizes, **further)
        self.pooling, self.time = pooling, time
        placement = {name: further[name] for name in ("device", "dtype") if name in further}
        self.pools = nn.ModuleList(BagPool(n, pooling, time, **placement) for n in in_features)

    def pool(self, inputs: Sequence[Tensor], sizes: Tensor, days: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the bags' vectors for each block, (N, C_i), and each picture's share in these vectors, (blocks, P).

        If the head was made with ``time``, the bags' vectors are (N, 2 C_i). The shares of a bag's pictures add up to
        1 for each block.

        Args:
            inputs: The vectors of all pictures at each scale, (P, C_i); the pictures of a bag follow one another.
            sizes: Number of pictures of each bag, (N,).
            days: Number of days from each picture to the last picture of its bag, (P,); None: all are zero.
        """
        bag = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        days = inputs[0].new_zeros(len(bag)) if days is None else days
        found = [pool(x, bag, len(sizes), days) for pool, x in zip(self.pools, inputs, strict=True)]
        return [pooled for pooled, _ in found], torch.stack([shares for _, shares in found])

    def branch_logits(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the logits (N, num_classes) of each block of the head.

        The inputs are the pooled vectors of bags, or the maps or vectors of single images.
        """
        return super().branch_logits([self._complete(x, i) for i, x in enumerate(inputs)])

    def forward(self, inputs: list[Tensor], pre_logits: bool = False) -> Tensor:
        """See `MultiScaleAveragingHead.forward`; the inputs are those of ``branch_logits``."""
        return super().forward([self._complete(x, i) for i, x in enumerate(inputs)], pre_logits)

    def _complete(self, x: Tensor, i: int) -> Tensor:
        """Return the input of block i; with ``time``, zeros are appended for a single picture, which has no change."""
        missing = self.in_features[i] - x.shape[1]
        return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) if missing else x

    def bag_logits(
        self, inputs: Sequence[Tensor], sizes: Tensor, days: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return each block's logits for the bags, (N, num_classes), and the shares of the pictures (see `pool`)."""
        pooled, shares = self.pool(inputs, sizes, days)
        return self.branch_logits(pooled), shares
