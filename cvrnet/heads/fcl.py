"""The fully connected block that classifies one feature map (v1 section 2.2, v2 section 5.1)."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import get_act_layer
from torch import Tensor, nn


class FCLBlock(nn.Module):
    """Global average pooling, dense layers, and a linear classifier (the papers' "FCL" block).

    Weights are initialised as in Keras's ``Dense``, which the papers used: Glorot uniform, biases zero.

    Args:
        in_features: Channels of the input map, or width of the input vector.
        num_classes: Number of classes; 0 for no classifier.
        hidden_sizes: Widths of the dense layers (the papers: 512, 128, 64).
        act_layer: Activation after each dense layer, by timm's name.
        drop_rate: Dropout before the classifier (the papers: none).
        device, dtype: Of the parameters.
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
        """Classify a feature map or an already pooled vector.

        Args:
            x: (N, in_features, H, W) or (N, in_features).
            pre_logits: Return the last dense layer's output instead of logits.

        Returns:
            (N, num_classes) logits, or (N, last hidden width).
        """
        x = x.reshape(x.shape[0], x.shape[1], -1).mean(-1)  # a branch for vectors would be one that FX cannot trace
        x = self.drop(self.hidden(x))
        return x if pre_logits else self.classifier(x)


def _dense(in_features: int, out_features: int, **placement: Any) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, **placement)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
