"""Serve a web page for a trained model: probabilities, uncertainty, and where the network looked (extra ``demo``)."""

from cvrnet.demo.serving import serve

__all__ = ["serve"]
