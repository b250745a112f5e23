"""One pass over the image files: what every part of the audit needs of each, the large part of it on disk.

In memory an image takes about 2 kB; its thumbnail and local features lie in memory-mapped files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from cvrnet.audit.examination import Examination, Views
from cvrnet.audit.local_features import MAX_FEATURES, describe
from cvrnet.data import ImageError, Record, read_image
from cvrnet.data.image import is_dicom

THUMBNAIL = 192
"""Longest side of the pictures that near-duplicates are compared on, in pixels."""

BORDER, CORNER = 0.02, 0.125  # of the image's height and width
SMALL = {"border": 64, "corners": 256, "histogram": 32, "thumbnail": 256, "pixels": 1024}
CONTAINER = 67  # numbers about file format and compression


@dataclass
class Measurements:
    """What was measured of N images; row i is of ``records[i]``."""

    records: list[Record]
    file_hash: list[str]
    pixel_hash: list[str]
    size: np.ndarray  # (N, 2): height and width
    formats: list[str]  # such as "JPEG L"
    container: np.ndarray  # (N, CONTAINER): JPEG's luminance table, its sum, chroma sampling, progressive
    small: dict[str, np.ndarray]  # uint8 (N, SMALL[name])
    thumbnails: np.ndarray  # uint8 (N, THUMBNAIL, THUMBNAIL), the picture at top left, in a file
    shapes: np.ndarray  # (N, 2): the picture's height and width within its thumbnail
    points: np.ndarray  # float32 (N, MAX_FEATURES, 2), in a file
    descriptors: np.ndarray  # uint8 (N, MAX_FEATURES, 128), in a file
    n_points: np.ndarray  # (N,)

    def thumbnail(self, index: int) -> np.ndarray:
        """The small picture of one image."""
        height, width = self.shapes[index]
        return np.array(self.thumbnails[index, :height, :width])


def measure(
    records: Sequence[Record],
    folder: Path,
    *,
    workers: int = 2,
    examination: Examination | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Measurements, list[tuple[Record, str]]]:
    """Read every image once.

    Args:
        records: The images.
        folder: Where the large arrays are put, about 70 kB an image.
        workers: Threads.
        examination: Is asked about each image while it is decoded.
        progress: Called after each image with the number done and the number of images.

    Returns:
        The measurements of the images that can be read, and the others with the reason.
    """
    n = len(records)

    def on_disk(name: str, dtype: type, *shape: int) -> np.ndarray:
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(dtype), (n, *shape))

    found = Measurements(
        [],
        [],
        [],
        np.zeros((n, 2), np.int64),
        [],
        np.zeros((n, CONTAINER), np.float32),
        {name: np.zeros((n, length), np.uint8) for name, length in SMALL.items()},
        on_disk("thumbnails", np.uint8, THUMBNAIL, THUMBNAIL),
        np.zeros((n, 2), np.int64),
        on_disk("points", np.float32, MAX_FEATURES, 2),
        on_disk("descriptors", np.uint8, MAX_FEATURES, 128),
        np.zeros(n, np.int64),
    )
    problems: list[tuple[Record, str]] = []

    def read(record: Record) -> tuple[_Image, Views | None] | str:
        try:
            pixels = read_image(record.path, examination.preprocessing.mode if examination else "L")
        except ImageError as error:
            return error.reason
        views = examination.views(record, pixels) if examination else None
        grey = pixels if pixels.ndim == 2 else np.array(Image.fromarray(pixels).convert("L"))
        return _Image.of(record.path, grey), views

    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(records)
        block = list(islice(waiting, 32 * workers))
        done = 0
        while block:
            for record, image in zip(block, pool.map(read, block), strict=True):
                if isinstance(image, str):
                    problems.append((record, image))
                else:
                    image[0].store(found, record)
                    if examination is not None:
                        examination.add(record, image[1])
                done += 1
                if progress is not None:
                    progress(done, n)
            block = list(islice(waiting, 32 * workers))
    if examination is not None:
        examination.finish()
    kept = len(found.records)
    for name in ("size", "container", "thumbnails", "shapes", "points", "descriptors", "n_points"):
        setattr(found, name, getattr(found, name)[:kept])
    found.small = {name: values[:kept] for name, values in found.small.items()}
    return found, problems


@dataclass
class _Image:
    file_hash: str
    pixel_hash: str
    size: tuple[int, int]
    format: str
    container: np.ndarray
    small: dict[str, np.ndarray]
    thumbnail: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray

    @classmethod
    def of(cls, path: Path, pixels: np.ndarray) -> _Image:
        form, container = _container(path)
        height, width = pixels.shape
        scale = THUMBNAIL / max(height, width)
        small = max(8, round(width * scale)), max(8, round(height * scale))
        thumbnail = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        points, descriptors = describe(thumbnail)
        return cls(
            hashlib.sha256(path.read_bytes()).hexdigest(),
            hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
            (height, width),
            form,
            container,
            _small(pixels),
            thumbnail,
            points,
            descriptors,
        )

    def store(self, to: Measurements, record: Record) -> None:
        row, (height, width) = len(to.records), self.thumbnail.shape
        to.records.append(record)
        to.file_hash.append(self.file_hash)
        to.pixel_hash.append(self.pixel_hash)
        to.formats.append(self.format)
        to.size[row], to.container[row] = self.size, self.container
        for name, values in self.small.items():
            to.small[name][row] = values
        to.thumbnails[row, :height, :width] = self.thumbnail
        to.shapes[row] = height, width
        to.n_points[row] = number = len(self.points)
        to.points[row, :number], to.descriptors[row, :number] = self.points, self.descriptors


def _small(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of a picture that the probes look at."""
    height, width = pixels.shape
    y, x = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    border = [_area(strip, 16, 1) for strip in (pixels[:y], pixels[-y:], pixels[:, :x].T, pixels[:, -x:].T)]
    y, x = max(1, round(CORNER * height)), max(1, round(CORNER * width))
    corners = [_area(part, 8, 8) for half in (pixels[:y], pixels[-y:]) for part in (half[:, :x], half[:, -x:])]
    histogram = np.bincount(pixels.ravel() >> 3, minlength=32)
    return {
        "border": np.concatenate(border),
        "corners": np.concatenate(corners),
        "histogram": np.rint(255 * np.sqrt(histogram / pixels.size)).astype(np.uint8),
        "thumbnail": _area(pixels, 16, 16),
        "pixels": _area(pixels, 32, 32),
    }


def _area(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA).ravel()


def _container(path: Path) -> tuple[str, np.ndarray]:
    """File format with pixel type, and what a JPEG says about its compression."""
    numbers = np.zeros(CONTAINER, np.float32)
    with open(path, "rb") as file:
        if is_dicom(file):
            return "DICOM", numbers
    with Image.open(path) as image:
        name = f"{image.format} {image.mode} {image.info.get('compression', '')}".strip()
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image.quantization:
            table = np.array(image.quantization[min(image.quantization)], np.float32)
            numbers[: len(table)] = table
            numbers[64:] = table.sum(), JpegImagePlugin.get_sampling(image), bool(image.info.get("progressive"))
    return name, numbers
