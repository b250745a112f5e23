"""A cache of resized images: each is decoded once, then read by every epoch, fold and process."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data.ct import window_of
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.data.grey import LATEST
from cvrnet.data.image import ImageError, read_image, split_frame
from cvrnet.data.limits import Mode, check_mode
from cvrnet.data.preprocessing import check_interpolation, resize_image
from cvrnet.data.record import Record
from cvrnet.errors import UserError
from cvrnet.files import image_cache_folder, write_private

FORMAT_VERSION = (
    2  #: increase it when `read_image` or `resize_image` gives other pixels: all entries are then made again
)
_HEADER = struct.Struct("<8sqq3i")  # magic and version; the image file's mtime_ns and size; the entry's shape


class ArrayFiles:
    """Stores one array for each image, each in its own small file.

    The file's name is made from the image's path and the settings that the array depends on, so arrays of several kinds
    can share a folder. The file contains a header with the modification time and size of the image, then the array. If
    the image has changed, its entry counts as missing. Entries are written atomically, so any number of processes of
    one user may read and write the folder at the same time. Other users cannot read it, because the entries are
    patients' images. The folder may be deleted at any time.
    """

    def __init__(
        self, folder: str | Path | None, settings: str, shape: tuple[int, int, int], dtype: type[np.generic]
    ) -> None:
        self.folder = image_cache_folder() if folder is None else Path(folder)
        self._settings, self._shape, self._dtype = settings, shape, np.dtype(dtype)
        self._bytes = _HEADER.size + math.prod(shape) * self._dtype.itemsize

    def read(self, path: str | Path) -> np.ndarray | None:
        """The array of an image, read-only; None if it is missing, damaged, or made from another version of the image.

        Raises:
            ImageError: the image does not exist.
            UserError: the folder cannot be read.
        """
        content = self._read(*self._entry(path), self._bytes)
        return (
            None if content is None else np.frombuffer(content, self._dtype, offset=_HEADER.size).reshape(self._shape)
        )

    def has(self, path: str | Path) -> bool:
        """Whether there is an up-to-date entry for the image; only the header is read."""
        try:
            return self._read(*self._entry(path), _HEADER.size) is not None
        except ImageError:
            return False

    def write(self, path: str | Path, array: np.ndarray, image: os.stat_result) -> None:
        """Write the array of an image; UserError if the folder cannot be written.

        ``image`` is what `image_status` returned before the image was read: if the image has changed since, the entry
        counts as missing.
        """
        entry, header = self._entry(path, image)
        _write(entry, header + np.ascontiguousarray(array, self._dtype).tobytes())

    def _entry(self, path: str | Path, image: os.stat_result | None = None) -> tuple[str, bytes]:
        """The path of an image's entry, and the header of an entry that is up to date."""
        image = image or image_status(path)
        header = _HEADER.pack(b"cvrnet%02d" % FORMAT_VERSION, image.st_mtime_ns, image.st_size, *self._shape)
        key = f"{os.path.abspath(path)}\n{self._settings}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return os.path.join(self.folder, name[:2], name[2:]), header

    def _read(self, entry: str, header: bytes, count: int) -> bytes | None:
        """The first bytes of an entry; None if it is missing, damaged, or made from another version of the image."""
        try:
            with open(entry, "rb", buffering=0) as file:
                whole = os.fstat(file.fileno()).st_size == self._bytes
                content = file.read(count)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = f"{error.strerror or error} (CVRNET_CACHE chooses another folder; each user needs one)"
            raise UserError(f"{entry}: the image cache cannot be read: {reason}") from error
        return content if whole and len(content) == count and content.startswith(header) else None


def image_status(path: str | Path) -> os.stat_result:
    """Modification time and size of an image's file; ImageError if there is no such file."""
    try:
        return os.stat(split_frame(path)[0])
    except (OSError, ValueError) as error:
        raise ImageError(path, getattr(error, "strerror", None) or str(error)) from error


class ImageCache:
    """A cache of images of one size: each is decoded and resized once, and stored in `ArrayFiles`.

    The size is height and width; mode, interpolation, grey version, body part and window of CTs are those of
    `read_image` and `Preprocessing`. The default folder is the one that the environment variable CVRNET_CACHE names or,
    without it, one in the platform's folder for caches. Missing entries are written again on use.

    Raises:
        UserError: an impossible size, or an unknown mode or interpolation.
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
    ) -> None:
        check_mode(mode)
        check_interpolation(interpolation)
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"image size {size} is not possible: expected height and width, at least 1")
        self.size = (int(size[0]), int(size[1]))
        self.mode: Mode = mode
        self.interpolation = interpolation
        self.grey_version, self.any_body_part, self.ct_window = grey_version, any_body_part, ct_window
        shape = (*self.size, 1 if mode == "L" else 3)
        settings: tuple[object, ...] = self.size, mode, interpolation, grey_version, any_body_part
        settings += (ct_window,) if ct_window else ()  # without it, entries have the names of earlier versions
        self._files = ArrayFiles(folder, "\n".join(map(str, settings)), shape, np.uint8)
        self.folder = self._files.folder

    def build(
        self, records: Sequence[Record], *, workers: int = 0, progress: Callable[[int, int], object] | None = None
    ) -> list[str]:
        """Decode the images that are missing from the cache, or have changed; ``workers`` is the number of threads.

        Returns one line for each image that cannot be read, in the order of the records. With 0 workers,
        there is one thread for each processor. ``progress`` is called after each decoded image with the number done and
        the number to do.

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

    def has(self, path: str | Path) -> bool:
        """Whether the image is in the cache, and has not changed."""
        return self._files.has(path)

    def load(self, path: str | Path) -> np.ndarray:
        """The resized image, as a read-only uint8 array of shape (height, width, channels).

        It is decoded first if it is missing from the cache, or has changed.

        Raises:
            ImageError: the image has to be decoded and cannot be.
            UserError: the cache cannot be read or written.
        """
        if (image := self._files.read(path)) is None:
            before = image_status(path)
            settings: Any = {"grey_version": self.grey_version, "any_body_part": self.any_body_part}
            if window := window_of(path, self.ct_window):
                settings["window"] = window
            picture = read_image(path, self.mode, **settings)
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


def _write(entry: str, content: bytes) -> None:
    try:
        # Without waiting for the disk: if a power cut damages an entry, the image is decoded again.
        write_private(entry, content, sync=False)
    except OSError as error:
        reason = f"{error.strerror or error} (CVRNET_CACHE chooses another folder)"
        raise UserError(f"{entry}: the image cache cannot be written: {reason}") from error
