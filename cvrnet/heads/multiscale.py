"""The multi-scale averaging head: one FCL block for each map, softmax outputs averaged (v1 section 2.2)."""

# Annotations must be types, not strings: FX copies them into its graphs, where TorchScript reads them.
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvrnet.heads.fcl import FCLBlock


def log_mean_softmax(logits: list[Tensor]) -> Tensor:
    r"""Logits whose softmax is the mean of the branches' softmaxes.

    .. math:: z = \log \frac{1}{n} \sum_i \mathrm{softmax}(z_i)
              = \mathrm{logsumexp}_i\, \log \mathrm{softmax}(z_i) - \log n

    So ``softmax(z)`` is the papers' prediction and ``cross_entropy(z, y)`` the papers' loss, computed without
    underflow.

    Args:
        logits: n tensors (N, C).

    Returns:
        (N, C), normalised: ``logsumexp(z) = 0`` for each row.

    >>> import torch
    >>> one, two = torch.tensor([[0.0, 4.0]]), torch.tensor([[3.0, 1.0]])
    >>> mean = (one.softmax(-1) + two.softmax(-1)) / 2
    >>> torch.allclose(log_mean_softmax([one, two]).softmax(-1), mean)
    True
    """
    return torch.logsumexp(torch.stack(logits).log_softmax(-1), 0) - math.log(len(logits))


class MultiScaleAveragingHead(nn.Module):
    """Classify from any number of feature maps or pooled vectors.

    Each input has its own :class:`FCLBlock`; the prediction is the mean of the blocks' softmax outputs.

    Args:
        in_features: Channels of each input.
        num_classes: At least 2, or 0 for no classifiers (``forward`` then gives the pre-logits).
        average: ``"probabilities"`` to average softmax outputs, as in the papers, or ``"logits"`` (an ablation).
        hidden_sizes, act_layer, drop_rate, device, dtype: As of :class:`FCLBlock`.

    Raises:
        ValueError: No input, an unknown average, or ``num_classes=1``, whose softmax would be the constant 1.

    >>> import torch
    >>> head = MultiScaleAveragingHead([64, 128], num_classes=3)
    >>> maps = [torch.randn(2, 64, 28, 28), torch.randn(2, 128)]
    >>> head(maps).shape, len(head.branch_logits(maps))
    (torch.Size([2, 3]), 2)
    """

    def __init__(
        self,
        in_features: Sequence[int],
        num_classes: int,
        hidden_sizes: Sequence[int] = (512, 128, 64),
        act_layer: str = "relu",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        average: str = "probabilities",
    ) -> None:
        super().__init__()
        if not in_features:
            raise ValueError("in_features is empty; expected the channels of at least one feature map")
        if average not in ("probabilities", "logits"):
            raise ValueError(f"average={average!r}; expected 'probabilities' or 'logits'")
        check_num_classes(num_classes)
        self.average = average
        self.in_features = list(in_features)
        self.num_classes = num_classes
        blocks = [FCLBlock(n, num_classes, hidden_sizes, act_layer, drop_rate, device, dtype) for n in in_features]
        self.blocks = nn.ModuleList(blocks)
        self.num_features = sum(block.num_features for block in blocks)

    @torch.jit.ignore
    def reset(self, num_classes: int) -> None:
        """Replace every block's classifier by a new one; 0 removes them."""
        check_num_classes(num_classes)
        self.num_classes = num_classes
        for block in self.blocks:
            assert isinstance(block, FCLBlock)
            block.reset(num_classes)

    def branch_logits(self, inputs: list[Tensor]) -> list[Tensor]:
        """Each block's own logits (N, num_classes), from its input (N, C_i, H_i, W_i) or (N, C_i)."""
        logits = []  # a loop, not a comprehension: TorchScript cannot iterate over modules in one
        for i, block in enumerate(self.blocks):
            logits.append(block(inputs[i]))
        return logits

    def forward(self, inputs: list[Tensor], pre_logits: bool = False) -> Tensor:
        """Average the blocks' softmax outputs.

        Args:
            inputs: One (N, C_i, H_i, W_i) or (N, C_i) for each block.
            pre_logits: Return the blocks' last dense outputs, concatenated, instead of logits.

        Returns:
            (N, num_classes) logits whose softmax is the mean of the blocks' softmaxes (with ``average="logits"`` the
            mean of their logits), or (N, num_features).
        """
        if pre_logits or self.num_classes == 0:
            features = []
            for i, block in enumerate(self.blocks):
                features.append(block(inputs[i], pre_logits=True))
            return torch.cat(features, 1)
        return self.combine(self.branch_logits(inputs))

    def combine(self, logits: list[Tensor]) -> Tensor:
        """The head's logits (N, num_classes) from those of its blocks."""
        return torch.stack(logits).mean(0) if self.average == "logits" else log_mean_softmax(logits)


def check_num_classes(num_classes: int) -> None:
    """ValueError if ``num_classes`` is 1 or negative."""
    if num_classes < 0 or num_classes == 1:
        raise ValueError(
            f"num_classes={num_classes}: a softmax over one class is constant; expected 2 or more, or 0 for none"
        )
