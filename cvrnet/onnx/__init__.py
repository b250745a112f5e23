"""Export trained models to ONNX files, check these files, and load them as models (extra ``export``)."""

from typing import TYPE_CHECKING

from cvrnet.lazy import lazy_names
from cvrnet.onnx.session import load_onnx

if TYPE_CHECKING:
    from cvrnet.onnx.export import export_onnx

__all__ = ["export_onnx", "load_onnx"]

__getattr__ = lazy_names(__name__, {"export_onnx": "cvrnet.onnx.export"})
