"""Put the papers' head on a timm backbone.

The head has a block of dense layers for each feature map, and averages the softmaxes of the blocks.

python reuse_head.py
"""

import timm
import torch
from torch import Tensor, nn

from cvrnet.heads import MultiScaleAveragingHead


class Voting(nn.Module):
    """A timm backbone with the papers' head: a block of dense layers classifies each feature map of the backbone."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, features_only=True)
        self.head = MultiScaleAveragingHead(self.backbone.feature_info.channels(), num_classes, hidden_sizes=(128, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, num_classes) of x (N, 3, H, W); their softmax is the mean of the blocks' softmaxes."""
        return self.head(self.backbone(x))


model = Voting("test_convnext", num_classes=3)
x, y = torch.randn(4, 3, 96, 96), torch.tensor([0, 1, 2, 0])
loss = nn.functional.cross_entropy(model(x), y)  # the usual loss, because the model returns logits
loss.backward()
with torch.no_grad():  # check that the softmax of the output is the mean of the blocks' probabilities
    votes = torch.stack(model.head.branch_logits(model.backbone(x))).softmax(-1)
    error = (model(x).softmax(-1) - votes.mean(0)).abs().max()
print(f"{len(votes)} blocks, loss {loss:.3f}; largest error of the mean: {error:.1e}")
