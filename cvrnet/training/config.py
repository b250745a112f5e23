"""The training protocol as one flat, JSON-able record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cvrnet.data.limits import MAX_INPUT_PIXELS
from cvrnet.errors import UserError

_COUNTS = ("img_size", "batch_size", "grad_accum", "epochs", "patience", "lr_patience")
# Names of settings, what is allowed, and what the message says of it.
_RULES: list[tuple[Sequence[str], Callable[[Any], bool], str]] = [
    (_COUNTS, lambda value: value >= 1, "a whole number from 1"),
    (("img_size",), lambda value: value**2 <= MAX_INPUT_PIXELS, f"at most {math.isqrt(MAX_INPUT_PIXELS)} pixels"),
    (("rotation_p", "shift_p", "hflip_p", "vflip_p"), lambda value: 0 <= value <= 1, "a probability from 0 to 1"),
    (("val_fraction", "lr_factor"), lambda value: 0 < value < 1, "a number between 0 and 1"),
    (("lr",), lambda value: value > 0, "a positive learning rate"),
    (("in_chans",), lambda value: value in (1, 3), "1 (grey) or 3 (RGB)"),
    (("monitor",), lambda value: value in ("val_loss", "val_accuracy"), "val_loss or val_accuracy"),
]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training; the defaults are the papers' protocol (v1 section 2.3, v2 section 5.2)."""

    model: str = "cvrnet"  #: a timm classifier: ours or any other; or ``local-dir:RUN`` to go on from a trained one
    encoders: tuple[str, ...] = ()  #: encoder names for a CVR-Net; empty for the model's own pair
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)  #: such as ``{"scales": "deepest"}``
    pretrained: bool = True  #: start from ImageNet weights (both papers do)
    img_size: int = 224  #: height and width, in pixels, that images are resized to
    in_chans: int = 3  #: 3, or 1 for grey images
    interpolation: str = "nearest"  #: of the resizing; the aspect ratio is not kept
    batch_size: int = 8  #: images an optimiser step, over all processes and accumulation steps together
    grad_accum: int = 1  #: parts that each process splits its share of a batch into, to save memory
    epochs: int = 200  #: largest number of epochs
    optimizer: str = "adam"  #: timm's name of the optimiser
    lr: float = 1e-4  #: initial learning rate
    #: Weigh the loss of class j by N_max / N_j. (The papers print N_j / N, which would favour the majority, against
    #: their own sentence: an erratum.)
    class_weights: bool = True
    lr_factor: float = 0.9  #: what a reduction multiplies the learning rate by ("Reduced by 10 %")
    lr_patience: int = 12  #: the learning rate is reduced after this many epochs without improvement
    patience: int = 25  #: training stops after this many epochs without improvement
    monitor: str = "val_loss"  #: what improvement and the best epoch are judged by: ``val_loss`` or ``val_accuracy``
    rotation_p: float = 0.45  #: probability of a rotation
    shift_p: float = 0.2  #: of a shift, of width and height each
    hflip_p: float = 0.5  #: of a horizontal flip
    vflip_p: float = 0.5  #: of a vertical flip
    drop_rate: float = 0.0  #: dropout before the classifiers (the papers: none)
    val_fraction: float = 0.2  #: part of the patients that validates when the data set names no validation split
    seed: int = 0  #: of weights, order, augmentation and splits
    amp: str = "auto"  #: ``auto``, ``fp32``, ``bf16`` or ``fp16``
    device: str = "auto"  #: ``auto``, ``cpu``, ``cuda`` or ``mps``
    num_workers: int = 0  #: processes that load images; the cache makes 0 fast enough on most machines

    def __post_init__(self) -> None:
        for names, allowed, expected in _RULES:
            for name in names:
                if not allowed(getattr(self, name)):
                    raise UserError(f"{name}={getattr(self, name)!r}; expected {expected}")
        if self.batch_size < self.grad_accum:
            raise UserError(f"batch_size={self.batch_size} cannot be split into {self.grad_accum} parts")

    def to_dict(self) -> dict[str, Any]:
        """The config as a dictionary that can be written as JSON."""
        return {**asdict(self), "encoders": list(self.encoders)}


_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "notebook": {"optimizer": "adamax", "lr_factor": 0.1, "lr_patience": 4, "patience": 13,
                 "monitor": "val_accuracy", "rotation_p": 0.0, "shift_p": 0.0},
}  # fmt: skip
RECIPES = tuple(_RECIPES)


def recipe(name: str, **settings: Any) -> TrainConfig:
    """A named protocol with some settings changed: ``paper`` (v2), or ``notebook`` (the authors' public notebook).

    >>> recipe("notebook", epochs=5).optimizer
    'adamax'
    """
    if name not in _RECIPES:
        raise UserError(f"unknown recipe {name!r}; expected {' or '.join(RECIPES)}")
    return replace(TrainConfig(), **{**_RECIPES[name], **settings})
