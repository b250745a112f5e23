"""ResNet-50 and Xception as in the authors' notebook (keras-applications 1.0.8), built from timm's modules.

They differ from timm's networks in points that no checkpoint records: which convolutions have strides, how max pools
pad, epsilon and momentum of batch norms, and the input (raw RGB, 0 to 255). So Keras's weights give wrong results in
timm's networks, and timm's weights give wrong results in these networks.
"""

from __future__ import annotations

from typing import Any

from timm.layers import create_pool2d
from torch import nn

from cvrnet.encoders.timm_backbone import TimmEncoder
from cvrnet.encoders.xception import XceptionEncoder
from cvrnet.errors import UserError

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01
"""The weight of the new batch, as in PyTorch. Keras's ``momentum=0.99`` is the weight of the old value."""


def keras_resnet50(*, pretrained: bool = False, **kwargs: Any) -> TimmEncoder:
    """Return ResNet-50 "v1": stages 3 to 5 have their stride in the first 1x1 convolution.

    In timm's ResNet-50 ("v1.5"), the 3x3 convolution has the stride (stages 3 to 5 are ``layer2`` to ``layer4``).
    The 53 convolutions have no biases, as in timm. ``cvrnet convert-keras`` subtracts Keras's biases from the running
    means. The arguments are those of `TimmEncoder`.

    Raises:
        UserError: ``pretrained`` is set; the authors' weights come only from a converted checkpoint.
    """
    _refuse_pretrained("keras_resnet50", pretrained)
    encoder = TimmEncoder("resnet50", **kwargs)
    for stage in ("layer2", "layer3", "layer4"):
        block: Any = encoder.backbone.get_submodule(f"{stage}.0")
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    _set_up_as_keras(encoder)
    return encoder


def keras_xception(*, pretrained: bool = False, **kwargs: Any) -> XceptionEncoder:
    """Return Xception with Keras's "same" max pools.

    Maps of even size are padded only on the right and below; timm's max pools pad all sides. The arguments are
    those of `XceptionEncoder`. With ``pretrained`` it raises UserError, like `keras_resnet50`.
    """
    _refuse_pretrained("keras_xception", pretrained)
    encoder = XceptionEncoder(**kwargs)
    # Keras's block2_pool, block3_pool, block4_pool and block13_pool.
    for pool in ("entry.0.rep.5", "entry.1.rep.6", "block3.pool", "block12.pool"):
        encoder.set_submodule(pool, create_pool2d("max", 3, 2, padding="same"))
    _set_up_as_keras(encoder)
    return encoder


def _set_up_as_keras(encoder: TimmEncoder | XceptionEncoder) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
    encoder.mean, encoder.std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # pixels stay 0..255


def _refuse_pretrained(name: str, pretrained: bool) -> None:
    if pretrained:
        raise UserError(
            f"encoder {name!r} has no pretrained weights of its own; use pretrained=False. To use a Keras checkpoint, "
            "convert it with `cvrnet convert-keras`, and load the new run folder as the whole model"
        )
