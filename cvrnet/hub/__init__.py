"""Push runs to the Hugging Face Hub and pull runs from it: one repository per run, one branch per fold.

Commands also accept ``hf-hub:user/repo`` as a model; `cvrnet.runs.hub_download` then downloads the model.
"""

from cvrnet.hub.pull import pull_folds
from cvrnet.hub.push import push_folds
from cvrnet.hub.space import push_space
from cvrnet.runs.hub_download import hub_checkpoints

__all__ = ["hub_checkpoints", "pull_folds", "push_folds", "push_space"]
