"""Heads: reusable without the rest of the package, on any list of feature maps or pooled vectors."""

from cvrnet.heads.fcl import FCLBlock
from cvrnet.heads.multiscale import MultiScaleAveragingHead, log_mean_softmax

__all__ = ["FCLBlock", "MultiScaleAveragingHead", "log_mean_softmax"]
