"""Encoders: what turns an image into feature maps at several scales."""

from cvrnet.encoders.registry import Encoder, create_encoder, list_encoders, register_encoder
from cvrnet.encoders.xception import XceptionEncoder

__all__ = ["Encoder", "XceptionEncoder", "create_encoder", "list_encoders", "register_encoder"]
