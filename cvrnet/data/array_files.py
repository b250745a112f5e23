"""Store one array per image on disk, each in a file that records which version of the image it was made from."""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cvrnet.data.image import ImageError, split_frame
from cvrnet.errors import UserError
from cvrnet.files import image_cache_folder, write_private

FORMAT_VERSION = (
    2  #: increase it if `read_image` or `resize_image` returns other pixels than before; then no old file is used
)
_HEADER = struct.Struct("<8sqq3i")  # magic and version; the image file's mtime_ns and size; the array's shape


class ArrayFiles:
    """Stores one array for each image. Each array is in a small file of its own, the image's entry.

    The name of an entry is made from the image's path and ``settings``, a text of all settings that the array depends
    on. So arrays of several kinds can share one ``folder`` (None is the default cache folder). ``shape`` is (height,
    width, channels). An entry contains a header with the modification time and size of the image file, then the array.
    If the image has changed, its entry counts as missing. Entries are written atomically, so several processes of one
    user may read and write the folder at once. Other users cannot read the entries, because these are images of
    patients. The folder may be deleted at any time.

    ``version_of`` is for arrays that also depend on another file, such as a mask. It takes the image's path and returns
    a text that changes when the other file changes.
    """

    def __init__(
        self,
        folder: str | Path | None,
        settings: str,
        shape: tuple[int, int, int],
        dtype: type[np.generic],
        version_of: Callable[[str | Path], str] | None = None,
    ) -> None:
        self.folder = image_cache_folder() if folder is None else Path(folder)
        self._settings, self._shape, self._dtype, self._version_of = settings, shape, np.dtype(dtype), version_of
        self._bytes = _HEADER.size + math.prod(shape) * self._dtype.itemsize

    def read(self, path: str | Path) -> np.ndarray | None:
        """Return an image's array, read-only; None if it is not stored, its file is damaged, or the image has changed.

        Raises:
            ImageError: the image does not exist.
            UserError: the folder cannot be read.
        """
        content = self._read(*self._entry(path), self._bytes)
        return (
            None if content is None else np.frombuffer(content, self._dtype, offset=_HEADER.size).reshape(self._shape)
        )

    def has(self, path: str | Path) -> bool:
        """Return whether an up-to-date array of the image is stored; only the header of the array's file is read."""
        try:
            return self._read(*self._entry(path), _HEADER.size) is not None
        except ImageError:
            return False

    def write(self, path: str | Path, array: np.ndarray, image: os.stat_result) -> None:
        """Write the array of an image; raise UserError if the folder cannot be written.

        ``image`` is what `image_status` returned before the image was read. If the image has changed since, the array
        counts as missing.
        """
        entry, header = self._entry(path, image)
        _write(entry, header + np.ascontiguousarray(array, self._dtype).tobytes())

    def _entry(self, path: str | Path, image: os.stat_result | None = None) -> tuple[str, bytes]:
        """Return the path of the file for an image's array, and the header that an up-to-date file has."""
        image = image or image_status(path)
        header = _HEADER.pack(b"cvrnet%02d" % FORMAT_VERSION, image.st_mtime_ns, image.st_size, *self._shape)
        key = f"{os.path.abspath(path)}\n{self._settings}"
        if self._version_of is not None:
            key += f"\n{self._version_of(path)}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return os.path.join(self.folder, name[:2], name[2:]), header

    def _read(self, entry: str, header: bytes, count: int) -> bytes | None:
        """Return the first `count` bytes of an array's file; None if it is missing or damaged or has another header."""
        try:
            with open(entry, "rb", buffering=0) as file:
                whole = os.fstat(file.fileno()).st_size == self._bytes
                content = file.read(count)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            reason = f"{error.strerror or error} (set CVRNET_CACHE to another folder; each user needs their own)"
            raise UserError(f"{entry}: the image cache cannot be read: {reason}") from error
        return content if whole and len(content) == count and content.startswith(header) else None


def image_status(path: str | Path) -> os.stat_result:
    """Return the `os.stat_result` of an image's file; raise ImageError if the file is missing or cannot be accessed."""
    try:
        return os.stat(split_frame(path)[0])
    except (OSError, ValueError) as error:
        raise ImageError(path, getattr(error, "strerror", None) or str(error)) from error


def _write(entry: str, content: bytes) -> None:
    try:
        # Do not wait for the disk: if a power cut damages an entry, the image is decoded again.
        write_private(entry, content, sync=False)
    except OSError as error:
        reason = f"{error.strerror or error} (set CVRNET_CACHE to another folder)"
        raise UserError(f"{entry}: the image cache cannot be written: {reason}") from error
