"""Encoders: networks that turn an image into feature maps at several scales."""

from cvrnet.encoders.normalization import ChannelAffine
from cvrnet.encoders.registry import Encoder, create_encoder, list_encoders, register_encoder
from cvrnet.encoders.repositories import is_repository
from cvrnet.encoders.timm_backbone import (
    hub_repository,
    locate_weights,
    missing_weights,
    weights_on_this_machine,
    weights_origin,
)
from cvrnet.encoders.xception import XceptionEncoder

__all__ = [
    "ChannelAffine",
    "Encoder",
    "XceptionEncoder",
    "create_encoder",
    "hub_repository",
    "is_repository",
    "list_encoders",
    "locate_weights",
    "missing_weights",
    "register_encoder",
    "weights_on_this_machine",
    "weights_origin",
]
