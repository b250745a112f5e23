"""Create encoders by name: timm's backbones, the encoders of this package, and encoders that the user registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import timm
from torch import Tensor, nn

from cvrnet.encoders.keras_variants import keras_resnet50, keras_xception
from cvrnet.encoders.repositories import is_repository, open_repository
from cvrnet.encoders.timm_backbone import TimmEncoder
from cvrnet.encoders.xception import XceptionEncoder
from cvrnet.errors import UserError


class Encoder(Protocol):
    """The attributes that CVRNet needs in an encoder. Any ``torch.nn.Module`` that has them can be an encoder.

    The module need not inherit from this class.

    The attribute ``float32_parts`` is optional: the names of submodules whose rounding costs the most accuracy. These
    submodules stay in float32 when prediction computes in bfloat16 or float16, and in an exported int8 file. If the
    attribute is missing or None, the encoder predicts in float32 until `cvrnet.workflows.tune` has found the parts for
    a trained network.
    """

    map_names: list[str]  #: name of each map, shallow to deep
    channels: list[int]  #: channels of each map
    reductions: list[int]  #: input size divided by map size, for each map; non-decreasing
    first_conv: tuple[str, ...]  #: names of the convolutions whose input is the image; timm adapts them to in_chans
    mean: tuple[float, ...]  #: channel means with which the encoder's input was normalised when it was pretrained
    std: tuple[float, ...]  #: channel standard deviations of this normalisation

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images (N, in_chans, H, W): one (N, channels[i], H_i, W_i) for each scale."""
        ...


_factories: dict[str, Callable[..., Encoder]] = {
    "legacy_xception": XceptionEncoder,
    "keras_resnet50": keras_resnet50,
    "keras_xception": keras_xception,
}


def register_encoder(name: str, factory: Callable[..., Encoder]) -> None:
    """Make an encoder available by name in ``create_encoder`` and in ``create_model(encoders=...)``.

    The encoder takes precedence over a timm model of the same name. The factory is called with the keywords
    ``pretrained, in_chans, cache_dir, device, dtype``, and returns an :class:`Encoder`.

    Raises:
        ValueError: The name is already registered.
    """
    if name in _factories:
        raise UserError(f"encoder {name!r} is already registered; choose another name")
    _factories[name] = factory


def list_encoders() -> list[str]:
    """Return the names of encoders that are not plain timm backbones; `create_encoder` also takes timm's names."""
    return sorted(_factories)


def create_encoder(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    in_chans: int = 3,
    img_size: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Encoder:
    """Create an encoder by name. Its maps are NCHW, even if the backbone is channels-last.

    Args:
        name: A registered encoder, or any timm model with feature maps at several scales, such as ``"resnet50"``,
            ``"convnext_tiny.fb_in22k"`` or ``"swin_tiny_patch4_window7_224"``; or ``hf-hub:user/repo[@revision]`` or
            ``local-dir:FOLDER``, a repository or folder that timm wrote for one of its models.
        pretrained: Load the encoder's pretrained weights.
        weights: A file of weights to load instead of the encoder's own pretrained weights; see
            `cvrnet.encoders.weights_file.read_weights_file`.
        in_chans: Channels of the image.
        img_size: Height and width of the image, for timm backbones that are built for one size.
        **kwargs: ``cache_dir`` (folder of the Hub's cache, if not the default), ``device`` and ``dtype``; ``mean`` and
            ``std``, the normalisation of the images; and further arguments of the timm model.

    Raises:
        ValueError: Unknown name, a backbone without feature maps, a registered factory that does not return an
            encoder, weights that do not fit, or a repository or folder without a timm model.

    >>> encoder = create_encoder("test_resnet")
    >>> encoder.channels, encoder.reductions
    ([48, 192, 96], [8, 16, 32])
    """
    if is_repository(name):
        return _from_repository(name, pretrained, weights, in_chans=in_chans, img_size=img_size, **kwargs)
    if weights is not None:
        kwargs["weights"] = weights
        if name in _factories and _factories[name] is not XceptionEncoder:
            raise UserError(f"encoder {name!r} does not take a file of weights; expected a timm model")
    if name in _factories:
        encoder = _factories[name](pretrained=pretrained, in_chans=in_chans, **kwargs)
        if not isinstance(encoder, nn.Module):
            raise UserError(f"encoder {name!r} is a {type(encoder).__name__}; expected a torch.nn.Module")
        if missing := [attribute for attribute in Encoder.__annotations__ if not hasattr(encoder, attribute)]:
            raise UserError(f"encoder {name!r} lacks attributes: {', '.join(missing)}; see cvrnet.encoders.Encoder")
        return encoder
    if not timm.is_model(name) or timm.models.is_model_in_modules(name, ["cvrnet"]):
        raise UserError(
            f"unknown encoder {name!r}; expected a name of timm.list_models(), one of {', '.join(list_encoders())}, "
            "hf-hub:user/repo or local-dir:FOLDER"
        )
    return TimmEncoder(name, pretrained=pretrained, in_chans=in_chans, img_size=img_size, **kwargs)


def _from_repository(name: str, pretrained: bool, weights: str | Path | None, **kwargs: Any) -> Encoder:
    """Return the encoder in a repository or folder.

    The encoder's attribute ``made_as`` holds the name of the timm model and the model's arguments.
    """
    source = open_repository(name, kwargs.get("cache_dir"), weights=pretrained and weights is None)
    size = None if source.weights is None else source.input_size
    options: dict[str, Any] = {"weights": weights or source.weights, "source_size": size, **source.arguments, **kwargs}
    encoder = TimmEncoder(source.architecture, **options)
    encoder.made_as = source.architecture, source.arguments
    if source.weights is not None:
        encoder.weights_from = f"{source.origin}, {encoder.weights_from}"
    return encoder
