"""Export trained models to checked ONNX files, and load such files as models (extra ``export``)."""

from cvrnet.onnx.export import export_onnx
from cvrnet.onnx.session import load_onnx

__all__ = ["export_onnx", "load_onnx"]
