"""Find the lungs in pictures, with the data set's masks or a segmenter, and mask or crop the pictures to the lungs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.array_files import ArrayFiles, image_status
from cvrnet.data.image import ImageError
from cvrnet.data.lung_masks import Box, LungSettings, Mask, enlarge_mask, mask_problem, read_mask
from cvrnet.data.record import Record
from cvrnet.errors import UserError

NO_MASK = "it has no lung mask"


class FindsLungs(Protocol):
    """The interface of a lung segmenter, which `cvrnet.lungs.Segmenter` implements."""

    size: int  #: side of the resized picture and of its map of probabilities, in pixels

    @property
    def digest(self) -> str:
        """A text that identifies the segmenter."""
        ...

    def probabilities(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize the picture to (size, size); return the probability of lung at each pixel, as uint8 from 0 to 255."""
        ...


class FoundLungs(NamedTuple):
    """The lungs of one picture."""

    mask: Mask | None  #: bool (H, W); None if the picture is used whole; always None from `LungFinder.check`
    problem: str  #: why the picture is used whole; ``""`` if its mask can be used
    given: bool  #: whether the mask comes from the data set


class LungFinder:
    """Finds the lung mask of each picture, and masks or crops the picture with it.

    If the data set gives a mask for a picture, this mask is used instead of the segmenter's. If a mask cannot be used
    (it is unreadable, empty, implausible, or has another aspect ratio than the picture), the picture is used whole, and
    the attribute ``whole`` gets an entry, picture's path -> reason.

    Args:
        settings: Whether to mask or to crop, and the margin.
        given: Picture file -> its mask file in the data set.
        segmenter: Finds the lungs in pictures without a mask in ``given``.
        cache_folder: Where the segmenter's results are stored (``""``: the default folder); None: they are not stored.
        whole_without: Use a picture whole if there is neither a mask nor a segmenter for it; by default, this is an
            error.
    """

    def __init__(
        self,
        settings: LungSettings,
        given: Mapping[Path, Path] | None = None,
        segmenter: FindsLungs | None = None,
        cache_folder: str | Path | None = None,
        whole_without: bool = False,
    ) -> None:
        self.settings, self.segmenter, self.whole_without = settings, segmenter, whole_without
        self.given: dict[Path, Path] = dict(given or {})
        self.whole: dict[Path, str] = {}  #: picture -> why it was used whole
        self._kept: ArrayFiles | None = None
        if segmenter is not None and cache_folder is not None:
            shape = (segmenter.size, segmenter.size, 1)
            self._kept = ArrayFiles(cache_folder or None, f"lungs {segmenter.digest}", shape, np.uint8)

    def use_masks(self, records: Iterable[Record]) -> None:
        """Use the lung masks that these records name: add them to the attribute ``given``."""
        self.given |= {record.path: record.lung_mask for record in records if record.lung_mask is not None}

    def find(self, path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> FoundLungs:
        """Return the lungs of a picture (H, W) or (H, W, 3), which was read from this path.

        Raises:
            ImageError: There is neither a mask nor a segmenter for the picture.
        """
        path = Path(path)
        if path in self.given:
            return self._told(path, *self._given(path, picture), True)
        if self.segmenter is not None:
            grid = self._grid(path, lambda: picture)
            problem = _implausible(grid > 127)
            return self._told(path, None if problem else enlarge_mask(grid, picture.shape), problem, False)
        if not self.whole_without:
            raise ImageError(path, "no lung mask is given, and the model has no segmenter (train with --segmenter)")
        return self._told(path, None, NO_MASK, False)

    def check(self, path: str | os.PathLike[str], read: Callable[[], NDArray[np.uint8]]) -> FoundLungs:
        """Return what `find` returns, but leave the mask out. ``read`` returns the picture; it is called if needed."""
        path = Path(path)
        if path in self.given or self.segmenter is None:
            return self.find(path, read())._replace(mask=None)
        return self._told(path, None, _implausible(self._grid(path, read) > 127), False)

    def _given(self, path: Path, picture: NDArray[np.uint8]) -> tuple[Mask | None, str]:
        """Return the mask that the data set gives, or None and the reason why it cannot be used."""
        try:
            mask = read_mask(self.given[path], picture.shape[:2])
        except UserError as error:
            reason = error.reason if isinstance(error, ImageError) else str(error)
            return None, f"its mask {self.given[path].name} cannot be used: {reason}"
        problem = _implausible(mask)
        return (None if problem else mask), problem

    def _told(self, path: Path, mask: Mask | None, problem: str, given: bool) -> FoundLungs:
        if problem:
            self.whole[path] = problem
        else:
            self.whole.pop(path, None)
        return FoundLungs(mask, problem, given)

    def cut(self, path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Box]:
        """Return the masked or cropped picture, and its box within the whole picture; raises the errors of `find`.

        If there is no mask that can be used, the whole picture is returned.
        """
        mask = self.find(path, picture).mask
        whole = (0, 0, *picture.shape[:2])
        if mask is None:
            return picture, (whole[0], whole[1], whole[2], whole[3])
        box = self.settings.box(mask) if self.settings.mode == "crop" else (whole[0], whole[1], whole[2], whole[3])
        return self.settings.cut(picture, mask), box

    def key(self, path: str | os.PathLike[str]) -> str:
        """Return a cache key: a text with everything on which the result of `cut` depends, except the picture."""
        mask = self.given.get(Path(path))
        if mask is None:
            return f"lungs {self.settings} {self.segmenter.digest if self.segmenter else ''}"
        try:
            status = os.stat(mask)
        except OSError:  # `find` reports the error
            return f"lungs {self.settings} {mask}"
        return f"lungs {self.settings} {mask} {status.st_mtime_ns} {status.st_size}"

    def _grid(self, path: Path, read: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        assert self.segmenter is not None
        if self._kept is None:
            return self.segmenter.probabilities(read())
        found = self._kept.read(path)
        if found is None:
            before = image_status(path)
            found = self.segmenter.probabilities(read())[..., None]
            self._kept.write(path, found, before)
        grid: NDArray[np.uint8] = found[..., 0]
        return grid


def _implausible(mask: Mask) -> str:
    problem = mask_problem(mask)
    return problem and f"its mask is implausible: {problem}"


def whole_sentence(whole: int, images: int, option: str) -> str:
    """Return one line that says how many pictures are used whole, because they have no usable lung mask."""
    if not whole:
        return f"{option}: usable lung masks for all pictures ({images:,})"
    return f"{option}: no usable lung mask for {whole:,} of {images:,} pictures; a picture without a mask is used whole"
