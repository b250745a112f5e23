"""The papers' head on another network: every feature map of a timm backbone votes, and the votes are averaged.

python reuse_head.py
"""

import timm
import torch
from torch import Tensor, nn

from cvrnet.heads import MultiScaleAveragingHead


class Voting(nn.Module):
    """Any timm backbone with feature maps, and a fully connected block on each."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, features_only=True)
        self.head = MultiScaleAveragingHead(self.backbone.feature_info.channels(), num_classes, hidden_sizes=(128, 64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits whose softmax is the mean of the blocks' softmaxes: the usual loss and softmax are right."""
        return self.head(self.backbone(x))


model = Voting("test_convnext", num_classes=3)
x, y = torch.randn(4, 3, 96, 96), torch.tensor([0, 1, 2, 0])
loss = nn.functional.cross_entropy(model(x), y)
loss.backward()
with torch.no_grad():
    votes = torch.stack(model.head.branch_logits(model.backbone(x))).softmax(-1)
    error = (model(x).softmax(-1) - votes.mean(0)).abs().max()
print(f"{len(votes)} blocks, loss {loss:.3f}; mean of their probabilities less the model's: {error:.1e}")
