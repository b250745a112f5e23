"""Resize and normalise images, in the same way for training and inference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from cvrnet.data.ct import window_of
from cvrnet.data.grey import LATEST, VERSIONS
from cvrnet.data.image import read_image
from cvrnet.data.limits import MAX_INPUT_PIXELS, MOST_SLICES, WINDOWS
from cvrnet.data.lung_finder import LungFinder
from cvrnet.data.lung_masks import Box, LungSettings
from cvrnet.errors import UserError

if TYPE_CHECKING:  # an ONNX model predicts without PyTorch
    from torch import Tensor, nn

_NOTE, _WINDOW, _SLICES = "cvrnet.grey_version=", "cvrnet.ct_window=", "cvrnet.slices="
_OUTCOME = "cvrnet.outcome="
_LUNGS = "cvrnet.lungs="
"""Prefixes of values in the ``notes`` of a ``pretrained_cfg``, the only field that can hold data which timm does not
know."""
_MOST, _EXTREME = MAX_INPUT_PIXELS, 1e6

# timm's names of interpolations are the names of Pillow's filters in lower case.
INTERPOLATIONS = {resampling.name.lower(): resampling for resampling in Image.Resampling}


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: str = "nearest") -> np.ndarray:
    """Resize a whole uint8 image (H, W) or (H, W, 3) to (height, width, C), where C is 1 or 3.

    The aspect ratio is not kept (second paper, section 5.2). The interpolation is a key of `INTERPOLATIONS`.
    """
    height, width = size
    resized = np.array(Image.fromarray(image).resize((width, height), check_interpolation(interpolation)))
    return resized if resized.ndim == 3 else resized[..., None]


def check_interpolation(name: str) -> Image.Resampling:
    """Return Pillow's filter for timm's name of an interpolation; UserError for an unknown name."""
    if not isinstance(name, str) or name not in INTERPOLATIONS:
        raise UserError(f"interpolation {name!r:.80} is not known: expected one of {', '.join(INTERPOLATIONS)}")
    return INTERPOLATIONS[name]


@dataclass(frozen=True)
class Preprocessing:
    """How a model's images are read, resized and normalised, as the model's ``pretrained_cfg`` states it.

    The whole image is always resized (timm's ``crop_mode="squash"`` with ``crop_pct=1.0``). A crop in the
    ``pretrained_cfg`` of another timm model is ignored, because a finding may lie at the edge of a radiograph.
    """

    input_size: tuple[int, int, int]  #: channels (1 or 3), height and width
    mean: tuple[float, ...]  #: mean of each channel, for pixels in 0..1
    std: tuple[float, ...]  #: standard deviation of each channel, for pixels in 0..1
    interpolation: str = "nearest"  #: timm's name of the resizing filter
    grey_version: int = LATEST  #: how pictures of more than 8 bits become 8 bits: one of `cvrnet.data.grey.VERSIONS`
    any_body_part: bool = False  #: whether `read` accepts DICOM of any part of the body; not stored in models
    # repr=False: the names of stored features contain this object's repr, so new fields must not change it.
    #: window of slices of CTs: one of `cvrnet.data.limits.WINDOWS`; ``""``: the file's window
    ct_window: str = field(default="", repr=False)
    slices: int = field(
        default=0, repr=False
    )  #: largest number of slices per volume, for a model that classifies bags (studies or patients); 0: other models
    #: whether pictures are black outside the lungs, or cropped to the lungs, before they are resized
    lungs: LungSettings | None = field(default=None, repr=False)
    #: finds the lungs, with the settings in ``lungs``; not stored in models (see `cvrnet.lungs.attach`)
    finder: LungFinder | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_interpolation(self.interpolation)
        size = self.input_size
        if not _are_numbers(size, int, 3) or size[0] not in (1, 3) or min(size) < 1 or size[1] * size[2] > _MOST:
            raise UserError(
                f"input size {size!r:.80} is not possible: expected (channels, height, width), with 1 or 3 channels "
                f"and at most {_MOST:,} pixels"
            )
        normal = all(_are_numbers(values, (int, float), size[0]) for values in (self.mean, self.std))
        if not normal or min(self.std) < 1 / _EXTREME:
            raise UserError(
                f"mean {self.mean!r:.80} and std {self.std!r:.80} do not fit {size[0]} channels: expected one number "
                "for each channel, and std above 0"
            )
        if self.grey_version not in VERSIONS:
            raise UserError(f"grey_version={self.grey_version!r:.20}; expected one of {', '.join(map(str, VERSIONS))}")
        if self.ct_window and self.ct_window not in WINDOWS:
            raise UserError(f"window {self.ct_window!r:.20} is not known: expected {' or '.join(WINDOWS)}")
        if not isinstance(self.slices, int) or not 0 <= self.slices <= MOST_SLICES:
            raise UserError(f"slices={self.slices!r:.20}; expected a whole number from 0 to {MOST_SLICES}")

    @classmethod
    def from_model(cls, model: nn.Module) -> Preprocessing:
        """Return the preprocessing in the ``pretrained_cfg`` of a timm model; missing values are timm's defaults.

        The cfg must state the model's number of channels, as the cfgs of CVR-Nets and of this library's checkpoints do.
        The cfgs of other timm models state three channels even if the model was made with ``in_chans=1``. A cfg without
        a grey version means version 1.
        """
        cfg: Any = model.pretrained_cfg
        return cls.from_cfg(cfg)

    @classmethod
    def from_cfg(cls, cfg: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing in a possibly untrusted ``pretrained_cfg``; missing values are timm's defaults."""
        keys = ("input_size", "mean", "std", "interpolation")
        given: Any = {key: cfg[key] for key in keys if cfg.get(key) is not None}
        if len(given) < 4:
            import timm.data

            given = timm.data.resolve_data_config({"": None}) | given
        size, mean, std = (given[key] for key in ("input_size", "mean", "std"))
        size, mean, std = (tuple(each) if isinstance(each, list) else each for each in (size, mean, std))
        stated: Any = _noted(cfg, _NOTE) or "1"
        version = {str(v): v for v in VERSIONS}.get(stated, stated)
        slices: Any = _noted(cfg, _SLICES) or "0"
        slices = int(slices) if slices.isascii() and slices.isdigit() and len(slices) < 6 else slices
        window = _noted(cfg, _WINDOW)
        lungs = LungSettings.parse(_noted(cfg, _LUNGS))
        return cls(size, mean, std, given["interpolation"], version, ct_window=window, slices=slices, lungs=lungs)

    @property
    def mode(self) -> Literal["L", "RGB"]:
        """The mode for `read_image`: ``"L"`` for one channel, ``"RGB"`` for three."""
        return "L" if self.input_size[0] == 1 else "RGB"

    def read(self, path: str | os.PathLike[str], window: str = "") -> np.ndarray:
        """Return the picture in a file, read with these settings by `cvrnet.data.read_image`; it is not resized.

        If ``lungs`` is set, the picture is black outside the lungs, or cropped to the lungs. Raises the same errors as
        `cvrnet.data.read_image` and `cut`.
        """
        return self.cut(path, self.read_whole(path, window))[0]

    def read_whole(self, path: str | os.PathLike[str], window: str = "") -> np.ndarray:
        """Like `read`, but return the whole picture even if ``lungs`` is set."""
        window = window or window_of(path, self.ct_window)
        return read_image(path, self.mode, window, grey_version=self.grey_version, any_body_part=self.any_body_part)

    def cut(self, path: str | os.PathLike[str], picture: np.ndarray) -> tuple[np.ndarray, Box]:
        """Return a picture from `read_whole`, masked or cropped if ``lungs`` is set, and its box in the whole picture.

        Raises:
            ImageError: `finder` has neither a lung mask for the picture nor a segmenter, and its
                ``whole_without`` is false.
            UserError: ``lungs`` is set, but `finder` is None.
        """
        if self.lungs is None:
            return picture, (0, 0, picture.shape[0], picture.shape[1])
        if self.finder is None:
            raise UserError(
                f"the model was trained with --lungs {self.lungs.mode}, and its segmenter is not loaded; load the "
                "model with Predictor.from_pretrained"
            )
        return self.finder.cut(path, picture)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Resize a uint8 image of shape (H, W) or (H, W, C) to (height, width, C)."""
        return resize_image(image, self.input_size[1:], self.interpolation)

    def normalize(self, batch: Tensor) -> Tensor:
        """Return a uint8 batch (N, C, H, W) as float32: scaled to 0..1, minus `mean`, divided by `std`."""
        import torch

        mean = torch.tensor(self.mean, dtype=torch.float32, device=batch.device).view(-1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=batch.device).view(-1, 1, 1)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)


def _are_numbers(values: Any, kind: Any, count: int) -> bool:
    """Return whether ``values`` are `count` numbers of this type, not NaN or huge; booleans are not numbers."""
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(v, kind) and not isinstance(v, bool) and abs(v) <= _EXTREME for v in values)
    )


def with_grey_version(cfg: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return a copy of a ``pretrained_cfg`` with the grey version: how pictures of more than 8 bits become 8 bits."""
    return _with_note(cfg, _NOTE, str(version))


def with_volumes(cfg: Mapping[str, Any], window: str, slices: int) -> dict[str, Any]:
    """Return a copy of a ``pretrained_cfg`` with the CT window, and the largest number of slices per volume."""
    return _with_note(_with_note(cfg, _WINDOW, window), _SLICES, str(slices))


def with_outcome(cfg: Mapping[str, Any], note: str) -> dict[str, Any]:
    """Return a copy of a ``pretrained_cfg`` with the outcome that the model predicts (`Outcome.note`)."""
    return _with_note(cfg, _OUTCOME, note)


def outcome_note(cfg: Mapping[str, Any]) -> str:
    """Return the text that `with_outcome` added; ``""`` if it added nothing."""
    return _noted(cfg, _OUTCOME)


def with_lungs(cfg: Mapping[str, Any], lungs: LungSettings | None) -> dict[str, Any]:
    """Return a copy of a ``pretrained_cfg`` with the lung settings (None: pictures are neither masked nor cropped)."""
    others = tuple(note for note in _notes(cfg) if not note.startswith(_LUNGS))
    return {**cfg, "notes": others} if lungs is None else _with_note(cfg, _LUNGS, str(lungs))


def _with_note(cfg: Mapping[str, Any], prefix: str, value: str) -> dict[str, Any]:
    others = [note for note in _notes(cfg) if not note.startswith(prefix)]
    return {**cfg, "notes": (*others, f"{prefix}{value}")}


def _noted(cfg: Mapping[str, Any], prefix: str) -> str:
    return next((note.removeprefix(prefix) for note in reversed(_notes(cfg)) if note.startswith(prefix)), "")


def _notes(cfg: Mapping[str, Any]) -> list[str]:
    notes = cfg.get("notes")  # one text or several; an untrusted file may contain anything
    notes = [notes] if isinstance(notes, str) else notes
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list | tuple) else []


def to_batch(images: Sequence[np.ndarray]) -> Tensor:
    """Stack uint8 images of one shape (H, W, C) into a uint8 batch (N, C, H, W)."""
    import torch

    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2))
