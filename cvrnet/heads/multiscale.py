"""The multi-scale averaging head: each map has a fully connected block, and the outputs of the blocks are averaged.

It is described in section 2.2 of the first paper. The first and the second CVR-Net paper are
arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

# Annotations must be types, not strings: FX copies them into its graphs, where TorchScript reads them.
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import get_act_layer
from torch import Tensor, nn

from cvrnet.task import check_num_classes


def log_mean_softmax(logits: list[Tensor]) -> Tensor:
    r"""Return logits whose softmax is the mean of the branches' softmaxes.

    .. math:: z = \log \frac{1}{n} \sum_i \mathrm{softmax}(z_i)
              = \mathrm{logsumexp}_i\, \log \mathrm{softmax}(z_i) - \log n

    So ``softmax(z)`` is the papers' prediction and ``cross_entropy(z, y)`` is the papers' loss, computed without
    underflow. ``logits`` has one tensor (N, C) for each of the n branches (P1, P2 and so on). The result is one
    tensor (N, C), normalised: ``logsumexp(z) = 0`` for each row.
    """
    return torch.logsumexp(_stack(logits).log_softmax(-1), 0) - math.log(len(logits))


def log_mean_sigmoid(logits: list[Tensor]) -> Tensor:
    r"""Return logits whose sigmoid is the mean of the branches' sigmoids, separately for each class.

    .. math:: z = \log \frac{p}{1 - p}
              = \mathrm{logsumexp}_i\, \log \sigma(z_i) - \mathrm{logsumexp}_i\, \log \sigma(-z_i),
              \quad p = \frac{1}{n} \sum_i \sigma(z_i)

    Both terms are computed without underflow, so z is exact where p rounds to 0 or 1. ``logits`` has one tensor (N, C)
    for each of the n branches (P1, P2 and so on). The result is one tensor (N, C).
    """
    z = _stack(logits)
    return torch.logsumexp(F.logsigmoid(z), 0) - torch.logsumexp(F.logsigmoid(-z), 0)


def log_mean(logits: list[Tensor], task: str) -> Tensor:
    """Return logits whose probabilities are the mean of the probabilities of all tensors in ``logits``."""
    return log_mean_sigmoid(logits) if task == "multilabel" else log_mean_softmax(logits)


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Convert logits (..., num_classes) to probabilities: softmax, or with ``task="multilabel"`` sigmoid."""
    return logits.sigmoid() if task == "multilabel" else logits.softmax(-1)


def _stack(logits: list[Tensor]) -> Tensor:
    """Stack the tensors and copy the result.

    Without the copy, TorchScript would differentiate the following steps as one graph. This graph would keep tensors
    for a gradient even in inference mode, and then fail.
    """
    return torch.stack(logits).clone()


class FCLBlock(nn.Module):
    """The papers' "FCL" block: global average pooling, dense layers, a linear classifier (second paper, section 5.1).

    Weights are initialised as in Keras's ``Dense``, which the papers used: Glorot uniform, biases zero.

    Args:
        in_features: Channels of the input map, or width of the input vector.
        num_classes: Number of classes; 0 for no classifier.
        hidden_sizes: Widths of the dense layers (the papers: 512, 128, 64).
        act_layer: Activation after each dense layer, by timm's name.
        drop_rate: Dropout before the classifier (the papers: none).
        device, dtype: Device and dtype of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (512, 128, 64),
        act_layer: str = "relu",
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        try:
            activation = get_act_layer(act_layer)
        except KeyError as error:
            message = f"unknown activation {act_layer!r}; expected one of timm's, such as 'relu' or 'gelu'"
            raise ValueError(message) from error
        widths = [in_features, *hidden_sizes]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [_dense(width_in, width_out, device=device, dtype=dtype), activation()]
        self.in_features = in_features
        self.num_features = widths[-1]
        self.hidden = nn.Sequential(*layers)
        self.drop = nn.Dropout(drop_rate)
        self.classifier: nn.Module = nn.Identity()
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """Replace the classifier by a new one on the same device, in the same dtype and mode; 0 removes it."""
        if num_classes == 0:
            self.classifier = nn.Identity()
            return
        like = next(self.parameters(), None)
        placement: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.classifier = _dense(self.num_features, num_classes, **placement).train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (N, num_classes) of a map (N, in_features, H, W) or an already pooled vector (N, in_features).

        With ``pre_logits`` it returns the last dense layer's output (N, num_features).
        """
        x = x.reshape(x.shape[0], x.shape[1], -1).mean(-1)  # without a branch for vectors, which FX could not trace
        x = self.drop(self.hidden(x))
        return x if pre_logits else self.classifier(x)


def _dense(in_features: int, out_features: int, **placement: Any) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, **placement)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class MultiScaleAveragingHead(nn.Module):
    """Classifies images from any number of feature maps or pooled vectors.

    Each input has its own :class:`FCLBlock`; the prediction is the mean of the blocks' softmax outputs. With
    ``task="multilabel"`` the classes are findings, and an image may have several. The prediction for each finding is
    then the mean of the blocks' sigmoid outputs.

    Args:
        in_features: Channels of each input.
        num_classes: At least 2 (for findings, at least 1), or 0 for no classifiers (``forward`` then returns the
            pre-logits).
        average: ``"probabilities"`` to average the blocks' probabilities, as in the papers, or ``"logits"`` (an
            ablation).
        task: ``"multiclass"`` (one class for each image) or ``"multilabel"`` (findings).
        hidden_sizes, act_layer, drop_rate, device, dtype: As in :class:`FCLBlock`.

    Raises:
        ValueError: ``in_features`` is empty, ``average`` or ``task`` is unknown, or ``num_classes`` is negative, or is
            1 for ``"multiclass"`` (the softmax of one class would always be 1).

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
        task: str = "multiclass",
    ) -> None:
        super().__init__()
        if not in_features:
            raise ValueError("in_features is empty; expected the channels of at least one feature map")
        if average not in ("probabilities", "logits"):
            raise ValueError(f"average={average!r}; expected 'probabilities' or 'logits'")
        check_num_classes(num_classes, task)
        self.average, self.task = average, task
        self.in_features = list(in_features)
        self.num_classes = num_classes
        blocks = [FCLBlock(n, num_classes, hidden_sizes, act_layer, drop_rate, device, dtype) for n in in_features]
        self.blocks = nn.ModuleList(blocks)
        self.num_features = sum(block.num_features for block in blocks)

    @torch.jit.ignore
    def reset(self, num_classes: int) -> None:
        """Replace every block's classifier by a new one; 0 removes the classifiers."""
        check_num_classes(num_classes, self.task)
        self.num_classes = num_classes
        for block in self.blocks:
            assert isinstance(block, FCLBlock)
            block.reset(num_classes)

    def branch_logits(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return each block's own logits (N, num_classes), from its input (N, C_i, H_i, W_i) or (N, C_i)."""
        logits = []  # a loop, because TorchScript cannot iterate over modules in a comprehension
        for i, block in enumerate(self.blocks):
            logits.append(block(inputs[i]))
        return logits

    def forward(self, inputs: list[Tensor], pre_logits: bool = False) -> Tensor:
        """Return logits (N, num_classes) whose probabilities are the mean of the blocks' probabilities.

        With ``average="logits"``, the result is the mean of the blocks' logits. With ``pre_logits``, the result is the
        concatenated outputs of the blocks' last dense layers, (N, num_features). The inputs are those of
        ``branch_logits``.
        """
        if pre_logits or self.num_classes == 0:
            features = []
            for i, block in enumerate(self.blocks):
                features.append(block(inputs[i], pre_logits=True))
            return torch.cat(features, 1)
        return self.combine(self.branch_logits(inputs))

    def combine(self, logits: list[Tensor]) -> Tensor:
        """Return the head's logits (N, num_classes) from the logits of its blocks."""
        if self.average == "logits":
            return _stack(logits).mean(0)
        return log_mean(logits, self.task)
