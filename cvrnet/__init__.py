"""CVR-Net for timm: dual-encoder, multi-scale image classifiers for chest radiographs.

Importing the package registers its models with timm; timm can be imported before or after it::

    import cvrnet, timm
    model = timm.create_model("cvrnet", num_classes=3)
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from cvrnet.lazy import lazy_names
from cvrnet.moved import keep_old_names
from cvrnet.registration import register_models

if TYPE_CHECKING:
    from timm import create_model

    from cvrnet import encoders as encoders
    from cvrnet import heads as heads
    from cvrnet.cvrnet import list_models
    from cvrnet.hub import pull_folds, push_folds
    from cvrnet.inference import Predictor
    from cvrnet.network import CVRNet

__all__ = ["CVRNet", "Predictor", "__version__", "create_model", "list_models", "pull_folds", "push_folds"]
__version__ = version("cvrnet")

__getattr__ = lazy_names(
    __name__,
    {
        "CVRNet": "cvrnet.network",
        "Predictor": "cvrnet.inference",
        "create_model": "timm",
        "encoders": "cvrnet.encoders",
        "heads": "cvrnet.heads",
        "list_models": "cvrnet.cvrnet",
        "pull_folds": "cvrnet.hub",
        "push_folds": "cvrnet.hub",
    },
)
keep_old_names()
register_models()
