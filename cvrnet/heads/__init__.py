"""Heads: modules that classify any list of feature maps or pooled vectors, usable without the rest of the package."""

from cvrnet.heads.multiscale import (
    FCLBlock,
    MultiScaleAveragingHead,
    log_mean,
    log_mean_sigmoid,
    log_mean_softmax,
    to_probabilities,
)
from cvrnet.heads.pooling import BagHead, Bags
from cvrnet.task import check_num_classes

__all__ = [
    "BagHead",
    "Bags",
    "FCLBlock",
    "MultiScaleAveragingHead",
    "check_num_classes",
    "log_mean",
    "log_mean_sigmoid",
    "log_mean_softmax",
    "to_probabilities",
]
