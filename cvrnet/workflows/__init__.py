"""Whole jobs: from a data set to a finished folder with its report (extra ``train``)."""

from cvrnet.workflows.collect import collect
from cvrnet.workflows.crossval import cross_validate
from cvrnet.workflows.evaluate import evaluate
from cvrnet.workflows.job import Callbacks
from cvrnet.workflows.soup import make_soup
from cvrnet.workflows.sweep import benchmark, leave_one_source_out
from cvrnet.workflows.train import train

__all__ = [
    "Callbacks",
    "benchmark",
    "collect",
    "cross_validate",
    "evaluate",
    "leave_one_source_out",
    "make_soup",
    "train",
]
