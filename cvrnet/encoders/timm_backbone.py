"""Any timm backbone as an encoder: its deepest feature maps, in NCHW."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import FeatureHookNet
from torch import Tensor, nn


class TimmEncoder(nn.Module):
    """The last maps of a timm backbone, at distinct strides where it has them.

    The backbone is timm's own feature extractor, so nothing of its classifier remains. Maps of channels-last
    backbones (Swin, for one) are brought to NCHW.

    Args:
        name: A timm model name, with or without a tag.
        pretrained: Load timm's pretrained weights.
        num_maps: How many maps, counted from the deepest; fewer where the backbone has fewer.
        in_chans: Channels of the image.
        **kwargs: ``device`` and ``dtype``.

    Raises:
        ValueError: The backbone offers no feature maps.
    """

    def __init__(
        self, name: str, *, pretrained: bool = False, num_maps: int = 3, in_chans: int = 3, **kwargs: Any
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"features_only": True, "in_chans": in_chans, **kwargs}
        indices = tuple(range(-num_maps, 0))
        try:
            self.backbone = timm.create_model(name, pretrained=pretrained, out_indices=indices, **options)
            if isinstance(self.backbone, FeatureHookNet):  # cannot be scripted, and FX traces it to an empty list
                options["feature_cls"] = "getter"
                self.backbone = timm.create_model(name, pretrained=pretrained, out_indices=indices, **options)
        except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
            if pretrained:
                raise
            raise ValueError(f"timm model {name!r} cannot serve as an encoder: {error}") from error
        info = self.backbone.feature_info
        self.channels: list[int] = info.channels()
        self.reductions: list[int] = info.reduction()
        self.channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")
        self.first_conv = "backbone." + _first_conv(self.backbone)
        self.mean: tuple[float, ...] = tuple(self.backbone.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.backbone.pretrained_cfg["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, in_chans, H, W) in, one (N, channels[i], H_i, W_i) a scale out."""
        maps = self.backbone(x)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return maps


def _first_conv(model: nn.Module) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name
    raise ValueError("the backbone has no convolution that sees the image")
