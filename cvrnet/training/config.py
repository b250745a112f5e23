"""The settings of training, as one flat record that can be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from cvrnet.data import Augmentation
from cvrnet.data.findings import UNCERTAIN
from cvrnet.data.grey import LATEST, VERSIONS
from cvrnet.data.limits import MAX_INPUT_PIXELS, MOST_SLICES, WINDOWS
from cvrnet.data.lung_masks import MODES, MOST_MARGIN, LungSettings
from cvrnet.data.outcomes import UNTIL, Outcome
from cvrnet.errors import UserError
from cvrnet.heads.pooling import POOLINGS, UNITS
from cvrnet.metrics.operating_points import DEFAULT_SENSITIVITY
from cvrnet.training.optimizers import create_optimizer

MAX_BATCH, MAX_WORKERS, MAX_SEED = 65_536, 256, 2**32 - 1  # MAX_SEED is the limit of NumPy and scikit-learn
MAX_SIDE = math.isqrt(MAX_INPUT_PIXELS)


def _whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | np.integer) and bool(low <= value <= high)


def _are_targets(value: Any) -> bool:
    targets = list(value.values()) if isinstance(value, Mapping) else [1 if value is None else value]
    return all(0 < target <= 1 for target in targets)


# Each rule has names of settings, a function that checks a value, and the expected values as the message names them.
_RULES: list[tuple[Sequence[str], Callable[[Any], bool], str]] = [
    (("views", "grad_accum", "epochs", "patience", "lr_patience"), _whole(1), "a whole number of at least 1"),
    (("img_size",), _whole(1, MAX_SIDE), f"a whole number from 1 to {MAX_SIDE}"),
    (("batch_size",), _whole(1, MAX_BATCH), f"a whole number from 1 to {MAX_BATCH}"),
    (("num_workers",), _whole(0, MAX_WORKERS), f"a whole number from 0 to {MAX_WORKERS}"),
    (("seed",), _whole(0, MAX_SEED), f"a whole number from 0 to {MAX_SEED}"),
    (
        ("rotation_p", "shift_p", "hflip_p", "vflip_p", "drop_rate"),
        lambda value: 0 <= value <= 1,
        "a probability from 0 to 1",
    ),
    (("val_fraction", "lr_factor"), lambda value: 0 < value < 1, "a number between 0 and 1"),
    (("label_smoothing", "ema_decay"), lambda value: 0 <= value < 1, "a number of at least 0 and less than 1"),
    (("lr",), lambda value: 0 < value < math.inf, "a positive, finite learning rate"),
    (("weight_decay",), lambda value: 0 <= value < math.inf, "a number of at least 0"),
    (
        ("freeze",),
        lambda value: value == "all" or (isinstance(value, int) and value >= 0),
        "all, or a number of epochs",
    ),
    (("unit",), lambda value: value in UNITS, ", ".join(UNITS)),
    (("pooling",), lambda value: value in POOLINGS, ", ".join(POOLINGS)),
    (("window",), lambda value: value in WINDOWS, ", ".join(WINDOWS)),
    (("slices",), _whole(1, MOST_SLICES), f"a whole number from 1 to {MOST_SLICES}"),
    (("until",), lambda value: value in UNTIL, ", ".join(UNTIL)),
    (("horizon",), lambda value: 0 < value < math.inf, "a positive number of days"),
    (("max_pos_weight",), lambda value: 1 <= value < math.inf, "a number of at least 1"),
    (("uncertain",), lambda value: value in UNCERTAIN, "ignore, positive or negative"),
    (("in_chans",), lambda value: value in (1, 3), "1 (grey) or 3 (RGB)"),
    (("grey_version",), lambda value: value in VERSIONS, "one of " + ", ".join(map(str, VERSIONS))),
    (
        ("sensitivity", "specificity"),
        _are_targets,
        "a number above 0 and at most 1, for all classes or for each class",
    ),
    (("lungs",), lambda value: value in ("", *MODES), ", ".join(MODES)),
    (("lungs_margin",), lambda value: 0 <= value <= MOST_MARGIN, f"a number from 0 to {MOST_MARGIN}"),
    (("monitor",), lambda value: value in ("val_loss", "val_accuracy"), "val_loss or val_accuracy"),
]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of training.

    The defaults are the protocol of the two CVR-Net papers (first paper, section 2.3; second paper, section 5.2).
    """

    #: Name of any timm classifier; or ``local-dir:RUN`` or ``hf-hub:user/repo`` to start from a trained model.
    model: str = "cvrnet"
    #: Encoders of a CVR-Net: timm names, ``hf-hub:user/repo`` or ``local-dir:FOLDER``; empty: the model's own pair.
    encoders: tuple[str, ...] = ()
    encoder_weights: tuple[str, ...] = ()  #: pretrained weights: each ``NAME=FILE``, or ``FILE`` for a single encoder
    #: Further arguments of timm's create_model, such as ``{"scales": "deepest"}``.
    model_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    pretrained: bool = True  #: start from ImageNet weights (both papers do)
    img_size: int = 224  #: images are resized to this height and width, in pixels
    in_chans: int = 3  #: the network's number of input channels, 3 or (for grey images) 1
    #: Filter with which images are resized (the aspect ratio is not kept). ``auto``: a registered CVR-Net and a trained
    #: model keep their own filter; other models get ``nearest``, the papers' filter.
    interpolation: str = "auto"
    grey_version: int = LATEST  #: how pictures of more than 8 bits become 8 bits (see `cvrnet.data.grey.VERSIONS`)
    any_body_part: bool = False  #: read DICOM files of any part of the body, not only of the chest
    #: ``mask``: images are multiplied by their lung masks; ``crop``: images are cropped to the box around the lungs;
    #: ``""``: whole images.
    lungs: str = ""
    lungs_margin: float = 0.05  #: margin around the lungs on every side, as a share of the image's longer side
    segmenter: str = ""  #: output folder of ``cvrnet lungs``; its segmenter finds the lungs of images without a mask
    batch_size: int = 8  #: images per optimiser step, over all processes and accumulation steps together
    grad_accum: int = 1  #: to save memory, each process splits its share of a batch into this many parts
    epochs: int = 200  #: largest number of epochs
    optimizer: str = "adam"  #: timm's name of the optimiser
    lr: float = 1e-4  #: initial learning rate
    weight_decay: float = 0.0  #: decay of the weights, but not of biases and normalisation layers (the papers: none)
    #: Decay per step of the moving average of the weights (EMA), which is validated and saved; 0: no average.
    ema_decay: float = 0.0
    label_smoothing: float = 0.0  #: share of each label's weight that is spread evenly over all classes
    #: ``"all"``: the encoders are frozen; only the heads train, on pooled feature maps that are computed once per image
    #: (or view). A number: only the heads train for this many epochs, then the whole network. 0: the whole network
    #: trains from the start.
    freeze: int | str = 0
    views: int = 1  #: number of views of each training image (itself and augmented copies); needs ``freeze="all"``
    #: Weight the loss of class j by N_max / N_j, where N_j is its number of training images. (The papers print N_j / N,
    #: where N is the sum of all N_j. That is an erratum: it would favour the majority class, which contradicts their
    #: text.)
    class_weights: bool = True
    #: Names of findings (an image may have several), or ``auto`` for all findings of the data set; empty: each image
    #: belongs to one class.
    findings: tuple[str, ...] = ()
    uncertain: str = "ignore"  #: meaning of -1 in the column of a finding: ``ignore``, ``positive`` or ``negative``
    #: With ``class_weights``, a finding's loss on images that have the finding is multiplied by (images without it) /
    #: (images with it), at least by 1 and at most by this number.
    max_pos_weight: float = 10.0
    unit: str = "image"  #: what has a label: an ``image``, or the bag of images of a ``study`` or ``patient``
    pooling: str = "attention"  #: how the images of a bag are combined: ``attention``, ``mean`` or ``max``
    time: bool = True  #: for bags: whether the model uses the column ``day``, if the data set has it
    slices: int = 64  #: largest number of slices that are read from a volume (DICOM, NIfTI), evenly spaced
    window: str = "lung"  #: for bags: range of Hounsfield units that CT slices show: ``lung`` or ``soft-tissue``
    #: Column with the day of an event, or with yes and no (see `cvrnet.data.outcomes`). The model predicts this event
    #: instead of the labels. Empty: the model predicts the labels.
    outcome: str = ""
    #: Which radiographs the model uses to predict the event. ``admission``: those of the day of admission (day 0) or
    #: before; ``first``: those of all days before the first event.
    until: str = "first"
    horizon: float = 14.0  #: the label is ``yes`` if the event comes within this many days (see `cvrnet.data.outcomes`)
    lr_factor: float = 0.9  #: the learning rate is multiplied by this factor (the papers: "Reduced by 10 %")
    lr_patience: int = 12  #: the learning rate is reduced after this many epochs without improvement
    patience: int = 25  #: training stops after this many epochs without improvement
    monitor: str = "val_loss"  #: the value that defines improvement and the best epoch: ``val_loss``, ``val_accuracy``
    #: Sensitivity that each class's threshold must reach on validation images: one number, or a mapping from class to
    #: number (0.9 for classes that are not in the mapping).
    sensitivity: float | Mapping[str, float] = field(default=DEFAULT_SENSITIVITY, hash=False)
    #: Specificity that a second threshold of each class must reach on validation images: one number, or a mapping from
    #: class to number (no second threshold for other classes). None: no second thresholds.
    specificity: float | Mapping[str, float] | None = field(default=None, hash=False)
    rotation_p: float = 0.45  #: probability that an image is rotated
    shift_p: float = 0.2  #: probability of a shift, drawn separately for width and height
    hflip_p: float = 0.5  #: probability of a horizontal flip
    vflip_p: float = 0.5  #: probability of a vertical flip
    drop_rate: float = 0.0  #: dropout before the classifiers (the papers: none)
    val_fraction: float = 0.2  #: approximate share of validation images (whole patients), if no image has split ``val``
    seed: int = 0  #: determines initial weights, order, augmentation and splits
    amp: str = "auto"  #: number format of the computations: ``auto``, ``fp32``, ``tf32``, ``bf16`` or ``fp16``
    device: str = "auto"  #: ``auto``, ``cpu``, ``cuda`` or ``mps``
    compile: bool = False  #: train a whole network through ``torch.compile``, which takes minutes to start
    num_workers: int = 0  #: processes that load images; with the cache, 0 is fast enough on most machines

    def __post_init__(self) -> None:
        for names, allowed, expected in _RULES:
            for name in names:
                value = getattr(self, name)
                try:
                    fits = allowed(value)
                except TypeError:  # for example, the value is a text, but the setting is a number
                    fits = False
                if not fits:
                    raise UserError(f"{name}={value!r}; expected {expected}")
        if self.views > 1 and self.freeze != "all":
            raise UserError(f"views={self.views} needs freeze='all', and freeze is {self.freeze!r}")
        if self.compile and (self.freeze == "all" or self.unit != "image"):
            raise UserError("compile is for whole networks on single images; leave it out for frozen encoders or bags")
        if self.findings and self.monitor != "val_loss":
            raise UserError(f"monitor={self.monitor!r} is for classes; for findings, expected val_loss")
        if self.unit != "image" and self.findings:
            raise UserError(f"findings need unit='image'; unit={self.unit!r} expects one label per bag")
        if self.outcome and self.findings:
            raise UserError(
                f"outcome={self.outcome!r} gives each image one label, findings give it several; "
                "expected either outcome or findings, not both"
            )
        if self.segmenter and not self.lungs:
            raise UserError(f"segmenter={self.segmenter!r} needs lungs='mask' or lungs='crop'")
        if self.lungs and self.unit != "image":
            raise UserError(f"lungs={self.lungs!r} needs unit='image', and unit is {self.unit!r}")
        if self.batch_size < self.grad_accum:
            raise UserError(
                f"batch_size={self.batch_size} cannot be split into grad_accum={self.grad_accum} parts; expected a "
                "batch_size that is at least grad_accum"
            )
        create_optimizer([nn.Parameter(torch.zeros(1, 1))], self.optimizer, self.lr)  # refuses an unknown optimiser

    @property
    def foretold(self) -> Outcome | None:
        """The event that the model predicts; None without ``outcome``."""
        return Outcome(self.outcome, self.until, float(self.horizon)) if self.outcome else None

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of training images."""
        return Augmentation(
            rotation_p=self.rotation_p, shift_p=self.shift_p, hflip_p=self.hflip_p, vflip_p=self.vflip_p
        )

    @property
    def lung_settings(self) -> LungSettings | None:
        """How images are masked or cropped to the lungs; None if the model takes whole images."""
        return LungSettings(self.lungs, self.lungs_margin) if self.lungs else None

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dictionary that can be written as JSON."""
        return {
            **asdict(self),
            "encoders": list(self.encoders),
            "encoder_weights": list(self.encoder_weights),
            "findings": list(self.findings),
        }


_RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "notebook": {"optimizer": "adamax", "lr_factor": 0.1, "lr_patience": 4, "patience": 13,
                 "monitor": "val_accuracy", "rotation_p": 0.0, "shift_p": 0.0},
    "modern": {"ema_decay": 0.99, "label_smoothing": 0.1},
    "frozen": {"freeze": "all", "optimizer": "adamw", "lr": 3e-4, "weight_decay": 0.01, "drop_rate": 0.3,
               "batch_size": 64, "epochs": 30, "patience": 30, "lr_patience": 30},
    "studies": {"freeze": "all", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "drop_rate": 0.3,
                "batch_size": 2, "epochs": 20, "patience": 20, "lr_patience": 20},
}  # fmt: skip
RECIPES = tuple(_RECIPES)


def recipe(name: str, **settings: Any) -> TrainConfig:
    """Return the config of a named protocol; ``settings`` replace its values.

    ``paper`` is the protocol of the second paper, and ``notebook`` is the protocol of the authors' public notebook.
    ``modern`` adds label smoothing and averaged weights to ``paper``. ``frozen`` trains only the heads, on frozen
    encoders (see docs/training.md), and ``studies`` does the same for bags of images (see docs/studies.md).

    >>> recipe("notebook", epochs=5).optimizer
    'adamax'
    """
    if name not in _RECIPES:
        raise UserError(f"unknown recipe {name!r}; expected {', '.join(RECIPES)}")
    return replace(TrainConfig(), **{**_RECIPES[name], **settings})
