"""Fine-tune models by the papers' protocol. This needs the package's extra ``train``.

The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from cvrnet.moved import moved_names
from cvrnet.training.config import RECIPES, TrainConfig, recipe
from cvrnet.training.loop import Progress, fit
from cvrnet.training.model import create_for_training, resolve_interpolation
from cvrnet.training.state import close_state, is_finished

__all__ = [
    "RECIPES",
    "Progress",
    "TrainConfig",
    "close_state",
    "create_for_training",
    "fit",
    "is_finished",
    "recipe",
    "resolve_interpolation",
]

__getattr__ = moved_names(__name__, {"train": "cvrnet.workflows"})
