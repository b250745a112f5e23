"""Whole jobs: from a data set to a finished folder with its report (extra ``train``)."""

from cvrnet.workflows.collect import collect
from cvrnet.workflows.crossval import cross_validate
from cvrnet.workflows.soup import make_soup
from cvrnet.workflows.source_shift import leave_one_source_out
from cvrnet.workflows.sweep import benchmark
from cvrnet.workflows.train import train

__all__ = ["benchmark", "collect", "cross_validate", "leave_one_source_out", "make_soup", "train"]
