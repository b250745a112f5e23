"""Trained models on the Hugging Face Hub: one repository per run, one branch per fold.

This package publishes and copies runs. `cvrnet.runs.hub_download` reads ``hf-hub:user/repo`` for every command.
"""

from cvrnet.hub.pull import pull_folds
from cvrnet.hub.push import push_folds
from cvrnet.hub.space import push_space
from cvrnet.runs.hub_download import hub_checkpoints

__all__ = ["hub_checkpoints", "pull_folds", "push_folds", "push_space"]
