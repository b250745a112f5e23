"""A cache of resized images: each is decoded once, then read by every epoch, fold and process."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cvrnet.data.decode_apart import decoding_threads
from cvrnet.data.grey import LATEST
from cvrnet.data.image import ImageError, read_image
from cvrnet.data.limits import Mode, check_mode
from cvrnet.data.preprocessing import check_interpolation, resize_image
from cvrnet.data.record import Record
from cvrnet.errors import UserError
from cvrnet.files import image_cache_folder, write_private

FORMAT_VERSION = 2  #: raise it when `read_image` or `resize_image` change any pixel: it replaces older entries
_HEADER = struct.Struct("<8sqq3i")  # magic and version; the image file's mtime_ns and size; the entry's shape


class ImageCache:
    """Images of one size, each decoded and resized once.

    Each image has one file, named by the image's path and the cache's settings, so that caches of several sizes share a
    folder. It contains a header with the modification time and size of the image it was made from, then the pixels. An
    entry of a changed image is replaced. Entries are written atomically: any number of processes may read and build
    the same cache at the same time, but of one user only: entries are patients' images, which nobody else may read. The
    folder may be deleted between runs and is filled again on use.

    The size is height and width; mode, interpolation, grey version and body part are those of `read_image` and
    `Preprocessing`. The folder is by default CVRNET_CACHE or, without it, one in the platform's folder for caches.

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
    ) -> None:
        check_mode(mode)
        check_interpolation(interpolation)
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"image size {size} is not possible: expected height and width, at least 1")
        self.size = (int(size[0]), int(size[1]))
        self.mode: Mode = mode
        self.interpolation = interpolation
        self.grey_version, self.any_body_part = grey_version, any_body_part
        self.folder = image_cache_folder() if folder is None else Path(folder)
        self._shape = (*self.size, 1 if mode == "L" else 3)
        self._bytes = _HEADER.size + math.prod(self._shape)

    def build(
        self, records: Sequence[Record], *, workers: int = 0, progress: Callable[[int, int], object] | None = None
    ) -> list[str]:
        """Decode the images that are missing from the cache, or have changed, in threads (0: one per processor).

        Returns one line for each image that cannot be read, in the order of the records. ``progress`` is called after
        each decoded image with the number done and the number to do.

        Raises:
            UserError: the cache cannot be read or written.
        """
        missing = [record for record in records if not self._is_current(record.path)]
        problems: list[str] = []
        with decoding_threads(workers or os.cpu_count()) as threads:
            for done, problem in enumerate(threads.map(self._store, missing), start=1):
                problems += problem
                if progress is not None:
                    progress(done, len(missing))
        return problems

    def load(self, path: str | Path) -> np.ndarray:
        """The resized image, as read-only uint8 array of shape (height, width, channels).

        It is decoded first if it is missing from the cache, or has changed.

        Raises:
            ImageError: the image has to be decoded and cannot be.
            UserError: the cache cannot be read or written.
        """
        entry, header = self._entry(path)
        content = self._read(entry, header, self._bytes)
        if content is None:
            image = read_image(path, self.mode, grey_version=self.grey_version, any_body_part=self.any_body_part)
            pixels = resize_image(image, self.size, self.interpolation)
            content = header + pixels.tobytes()
            _write(entry, content)
        return np.frombuffer(content, np.uint8, offset=_HEADER.size).reshape(self._shape)

    def _is_current(self, path: Path) -> bool:
        try:
            return self._read(*self._entry(path), _HEADER.size) is not None
        except ImageError:
            return False

    def _store(self, record: Record) -> list[str]:
        try:
            self.load(record.path)
        except ImageError as error:
            return [record.problem(error.reason)]
        return []

    def _entry(self, path: str | Path) -> tuple[str, bytes]:
        """The path of an image's entry, and the header of an entry that is up to date."""
        try:
            image = os.stat(path)
        except (OSError, ValueError) as error:
            raise ImageError(path, getattr(error, "strerror", None) or str(error)) from error
        header = _HEADER.pack(b"cvrnet%02d" % FORMAT_VERSION, image.st_mtime_ns, image.st_size, *self._shape)
        settings = self.size, self.mode, self.interpolation, self.grey_version, self.any_body_part
        key = "\n".join(map(str, (os.path.abspath(path), *settings)))
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
            reason = f"{error.strerror or error} (CVRNET_CACHE names its folder, one for each user)"
            raise UserError(f"{entry}: the image cache cannot be read: {reason}") from error
        return content if whole and len(content) == count and content.startswith(header) else None


def _write(entry: str, content: bytes) -> None:
    try:
        # Without waiting for the disk: an entry that a power cut damages is just decoded again.
        write_private(entry, content, sync=False)
    except OSError as error:
        reason = f"{error.strerror or error} (CVRNET_CACHE names its folder)"
        raise UserError(f"{entry}: the image cache cannot be written: {reason}") from error
