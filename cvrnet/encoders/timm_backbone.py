"""Any timm backbone as an encoder: its deepest feature maps, in NCHW."""

from pathlib import Path
from typing import Any

import timm
from timm.models import FeatureHookNet, get_model_input_config
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from cvrnet.encoders.pretrained import locate_weights
from cvrnet.errors import UserError


class TimmEncoder(nn.Module):
    """The last maps of a timm backbone, at distinct strides where it has them.

    The backbone is timm's own feature extractor, so nothing of its classifier remains. Maps of channels-last
    backbones (Swin, for one) are brought to NCHW.

    Prediction in bfloat16 or float16 leaves the first convolution, and of ResNets the convolutions in the shortcuts, in
    float32: few operations, and every later map carries their rounding.

    Args:
        name: A timm model name, with or without a tag.
        pretrained: Load timm's pretrained weights.
        num_maps: How many maps, counted from the deepest.
        in_chans: Channels of the image.
        img_size: Height and width of the image, for backbones that are built for one size (Swin, for one).
        cache_dir: The Hub's cache, where not the usual one.
        **kwargs: ``device`` and ``dtype``.

    Raises:
        ValueError: The backbone offers no feature maps, or fewer than ``num_maps``.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        num_maps: int = 3,
        in_chans: int = 3,
        img_size: tuple[int, int] | None = None,
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        backbone: Any
        options: dict[str, Any] = {
            "features_only": True,
            "out_indices": tuple(range(-num_maps, 0)),
            "in_chans": in_chans,
            "cache_dir": cache_dir,
            **kwargs,
        }
        cfg = timm.get_pretrained_cfg(name)
        if img_size is not None and cfg is not None and cfg.fixed_input_size:
            options["img_size"] = img_size
        if pretrained:
            options |= {"pretrained": True, "pretrained_cfg_overlay": locate_weights(name, cache_dir)}
        try:
            backbone = timm.create_model(name, **options)
            if isinstance(backbone, FeatureHookNet):  # cannot be scripted, and FX traces it to an empty list
                backbone = timm.create_model(name, feature_cls="getter", **options)
        except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError) as error:
            if pretrained:
                raise
            raise UserError(f"timm model {name!r} cannot serve as an encoder: {error}") from error
        self.backbone: nn.Module = backbone
        info = backbone.feature_info
        names: list[str] = info.module_name()
        channels: list[int] = info.channels()
        reductions: list[int] = info.reduction()
        self.map_names = names
        self.channels = channels
        self.reductions = reductions
        self.channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
        self.first_conv = _first_conv(backbone)
        self.float32_parts = (*self.first_conv, *_shortcuts(backbone))
        self.mean: tuple[float, ...] = tuple(backbone.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(backbone.pretrained_cfg["std"])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (N, in_chans, H, W) in, one (N, channels[i], H_i, W_i) a scale out."""
        maps = self.backbone(x)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return maps


def _first_conv(backbone: nn.Module) -> tuple[str, ...]:
    """Names, in the encoder, of the convolutions that timm adapts to the image's channels."""
    declared = get_model_input_config(backbone)["first_conv"] or ()
    modules = dict(backbone.named_modules())
    found = []
    for name in (declared,) if isinstance(declared, str) else declared:
        rewritten = (name, name.replace(".", "_", 1), f"model.{name}")  # plain, flattened, wrapped
        found += [f"backbone.{candidate}" for candidate in rewritten if candidate in modules][:1]
    return tuple(found)


def _shortcuts(backbone: nn.Module) -> list[str]:
    """Names, in the encoder, of the convolutions in the shortcuts of ResNet's blocks."""
    blocks = [(name, m) for name, m in backbone.named_modules() if isinstance(m, (BasicBlock, Bottleneck))]
    return [f"backbone.{name}.downsample" for name, block in blocks if block.downsample is not None]
