"""Fine-tuning by the papers' protocol (extra ``train``)."""

from cvrnet.training.config import RECIPES, TrainConfig, recipe
from cvrnet.training.loop import Progress, fit, make_accelerator
from cvrnet.training.run import train

__all__ = ["RECIPES", "Progress", "TrainConfig", "fit", "make_accelerator", "recipe", "train"]
