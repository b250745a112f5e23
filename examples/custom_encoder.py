"""Build a CVR-Net with an encoder of timm and an encoder that you write yourself.

python custom_encoder.py
"""

import timm
import torch
from torch import Tensor, nn

import cvrnet  # noqa: F401  # registers the models with timm
from cvrnet.encoders import register_encoder


class ThreeStages(nn.Module):
    """An encoder of three strided convolutions. `cvrnet.encoders.Encoder` documents the attributes that it needs."""

    map_names = ["stem", "stage1", "stage2"]  # from shallow to deep  # noqa: RUF012
    channels = [32, 64, 128]  # noqa: RUF012
    reductions = [8, 16, 32]  # size of the image divided by the size of each map  # noqa: RUF012
    first_conv = ("stem",)  # for grey images, timm adapts the weights of this layer
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # the normalisation of images that this encoder expects

    def __init__(self, pretrained: bool, in_chans: int, device=None, dtype=None, **_: object) -> None:
        super().__init__()
        if pretrained:
            raise ValueError("ThreeStages has no pretrained weights; expected pretrained=False")
        options = {"device": device, "dtype": dtype}  # lets cvrnet create the model without memory, then load weights
        self.stem = nn.Conv2d(in_chans, 32, 7, stride=8, padding=3, **options)
        self.stages = nn.ModuleList(nn.Conv2d(n, 2 * n, 3, stride=2, padding=1, **options) for n in (32, 64))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return three maps of x (N, C, H, W); map i is (N, channels[i], H / reductions[i], W / reductions[i])."""
        maps = [self.stem(x).relu()]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return maps


register_encoder("three_stages", ThreeStages)

model = timm.create_model("cvrnet", encoders=("test_resnet", "three_stages"), num_classes=3).eval()
for name, maps in zip(model.map_names, model.forward_maps(torch.zeros(1, 3, 224, 224)), strict=True):
    print(f"{name:28} {tuple(maps.shape)}")
print("logits", tuple(model(torch.zeros(1, 3, 224, 224)).shape))
