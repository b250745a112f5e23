"""A cache of resized images: each image is decoded once, and all epochs, folds and processes use the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data.array_files import ArrayFiles, image_status
from cvrnet.data.ct import window_of
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.data.grey import LATEST
from cvrnet.data.image import ImageError, read_image
from cvrnet.data.limits import Mode, check_mode
from cvrnet.data.lung_finder import LungFinder
from cvrnet.data.preprocessing import check_interpolation, resize_image
from cvrnet.data.record import Record
from cvrnet.errors import UserError


class ImageCache:
    """A cache of images of one size: each image is decoded and resized once, and stored with `ArrayFiles`.

    ``size`` is (height, width) in pixels. ``mode``, ``interpolation``, ``grey_version``, ``any_body_part`` and
    ``ct_window`` are as in `read_image` and `Preprocessing`. The environment variable CVRNET_CACHE names the default
    ``folder``; without this variable, the default is inside the platform's cache folder. An image that is not in the
    cache is decoded when it is requested, and then stored. With ``lungs``, images are masked or cropped to the lungs
    before they are resized.

    Raises:
        UserError: The size is impossible, or the mode or interpolation is unknown.
    """

    def __init__(
        self,
        size: tuple[int, int],
        mode: Mode = "L",
        interpolation: str = "nearest",
        folder: str | Path | None = None,
        *,
        grey_version: int = LATEST,
        any_body_part: bool = False,
        ct_window: str = "",
        lungs: LungFinder | None = None,
    ) -> None:
        check_mode(mode)
        check_interpolation(interpolation)
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"image size {size} is not possible: expected (height, width), both at least 1")
        self.size = (int(size[0]), int(size[1]))
        self.mode: Mode = mode
        self.interpolation = interpolation
        self.grey_version, self.any_body_part, self.ct_window = grey_version, any_body_part, ct_window
        self.lungs = lungs
        shape = (*self.size, 1 if mode == "L" else 3)
        settings: tuple[object, ...] = self.size, mode, interpolation, grey_version, any_body_part
        settings += (ct_window,) if ct_window else ()  # without a window, file names stay those of earlier versions
        self._files = ArrayFiles(folder, "\n".join(map(str, settings)), shape, np.uint8, self.version_of)
        self.folder = self._files.folder

    def build(
        self, records: Sequence[Record], *, workers: int = 0, progress: Callable[[int, int], object] | None = None
    ) -> list[str]:
        """Decode the images that are missing from the cache, or have changed; ``workers`` is the number of threads.

        With 0 workers, there is one thread for each processor. ``progress`` is called after each of these images with
        the number of images done and the number of all images to decode. Returns one line for each image that cannot be
        read, in the order of the records.

        Raises:
            UserError: the cache cannot be read or written.
        """
        missing = [record for record in records if not self._files.has(record.path)]
        problems: list[str] = []
        with decoding_threads(workers or os.cpu_count()) as threads:
            for done, problem in enumerate(threads.map(self._store, missing), start=1):
                problems += problem
                if progress is not None:
                    progress(done, len(missing))
        return problems

    @property
    def version_of(self) -> Callable[[str | Path], str] | None:
        """A function that turns an image's path into a text that depends on its lung mask; None without ``lungs``."""
        return self.lungs.key if self.lungs else None

    def has(self, path: str | Path) -> bool:
        """Return whether the image is in the cache, and has not changed."""
        return self._files.has(path)

    def load(self, path: str | Path) -> np.ndarray:
        """Return the resized image, as a read-only uint8 array of shape (height, width, channels).

        An image that is missing from the cache, or has changed, is decoded first.

        Raises:
            ImageError: the image file does not exist, or the image is not in the cache and cannot be decoded.
            UserError: the cache cannot be read or written.
        """
        if (image := self._files.read(path)) is None:
            before = image_status(path)
            settings: Any = {"grey_version": self.grey_version, "any_body_part": self.any_body_part}
            if window := window_of(path, self.ct_window):
                settings["window"] = window
            picture = read_image(path, self.mode, **settings)
            if self.lungs is not None:
                picture, _ = self.lungs.cut(path, picture)
            image = resize_image(picture, self.size, self.interpolation)
            self._files.write(path, image, before)
            image.setflags(write=False)
        return image

    def _store(self, record: Record) -> list[str]:
        try:
            self.load(record.path)
        except ImageError as error:
            return [record.problem(error.reason)]
        return []
