"""Heads: reusable without the rest of the package, on any list of feature maps or pooled vectors."""

from cvrnet.heads.multiscale import FCLBlock, MultiScaleAveragingHead, check_num_classes, log_mean_softmax

__all__ = ["FCLBlock", "MultiScaleAveragingHead", "check_num_classes", "log_mean_softmax"]
