"""Fine-tuning by the papers' protocol (extra ``train``)."""

from cvrnet.moved import moved_names
from cvrnet.training.config import RECIPES, TrainConfig, recipe
from cvrnet.training.loop import Progress, fit
from cvrnet.training.model import create_for_training

__all__ = ["RECIPES", "Progress", "TrainConfig", "create_for_training", "fit", "recipe"]

__getattr__ = moved_names(__name__, {"train": "cvrnet.workflows"})
