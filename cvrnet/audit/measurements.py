"""Measure the image files in one pass, for all parts of the audit.

An image takes a few kB of memory; its thumbnail and local features are in a memory-mapped file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from cvrnet.audit.examination import Examination, Views
from cvrnet.audit.local_features import MAX_FEATURES, describe
from cvrnet.data import ImageError, Preprocessing, Record
from cvrnet.data.decode_apart import decoding_threads
from cvrnet.data.image import depth_in_use, is_dicom, open_picture
from cvrnet.data.lung_finder import LungFinder
from cvrnet.files import open_regular

THUMBNAIL = 192  # pixels, the longest side of the small pictures in which near-duplicates are searched
_GREY = Preprocessing((1, THUMBNAIL, THUMBNAIL), (0.0,), (1.0,))  # how images are read without a model
BORDER, CORNER = 0.02, 0.125  # size of the border, and of a corner, as a share of the image's height and width
LARGE = np.dtype(
    [
        ("thumbnail", np.uint8, (THUMBNAIL, THUMBNAIL)),  # the picture is in the top left corner
        ("points", np.float32, (MAX_FEATURES, 2)),
        ("descriptors", np.uint8, (MAX_FEATURES, 128)),
    ]
)
"""The data of one image that are kept on disk."""


@dataclass(frozen=True)
class ImageFacts:
    """The data of one image that are kept in memory."""

    file_hash: str
    pixel_hash: str  # hash of shape and pixels
    size: tuple[int, int]  # height and width
    format: str  # the file's format and pixel type, such as "JPEG L"
    vectors: dict[str, np.ndarray]  # name of a probe -> its features (d,), for all of `probes.WHAT` except "format"
    thumbnail: tuple[int, ...] = (0, 0)  # height and width of the small picture
    n_points: int = 0  # number of local features
    depth: int = 0  # bits in use, for grey PNG and TIFF files of more than 8 bits; 0 for other files


@dataclass(frozen=True)
class Measurements:
    """The measurements of N images."""

    records: list[Record]
    facts: list[ImageFacts]
    large: np.ndarray  # (N or more,) in a memory-mapped file; entry i has type `LARGE`, and is of image i

    def thumbnail(self, index: int) -> np.ndarray:
        """Return the small picture of one image."""
        height, width = self.facts[index].thumbnail
        return np.array(self.large["thumbnail"][index, :height, :width])

    def local_features(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the points (n, 2) and descriptors (n, 128) of one image."""
        n = self.facts[index].n_points
        return np.array(self.large["points"][index, :n]), np.array(self.large["descriptors"][index, :n])


def measure(
    records: Sequence[Record],
    folder: Path,
    workers: int = 2,
    examination: Examination | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    any_body_part: bool = False,
    finder: LungFinder | None = None,
) -> tuple[Measurements, list[tuple[Record, str]]]:
    """Measure the images that can be read; also return the images that cannot be read, each with the reason.

    Every image is read once. The large arrays, about 70 kB per image, are in a file in ``folder``. The other arguments
    are those of `cvrnet.audit.audit`; ``examination`` gets each decoded image. With ``finder``, images are masked or
    cropped first.
    """
    found = Measurements([], [], np.lib.format.open_memmap(folder / "large.npy", "w+", LARGE, (len(records),)))
    problems: list[tuple[Record, str]] = []
    settings = examination.preprocessing if examination else _GREY
    settings = replace(settings, any_body_part=any_body_part)
    if finder is not None:
        settings = replace(settings, lungs=finder.settings, finder=finder)

    def read(record: Record) -> str | tuple[ImageFacts, np.ndarray, Views | None]:
        try:
            pixels = settings.read(record.path)
        except ImageError as error:
            return error.reason
        views = examination.views(record, pixels) if examination else None
        grey = pixels if pixels.ndim == 2 else np.array(Image.fromarray(pixels).convert("L"))
        return *_measure_image(record.path, grey), views

    block = 32 * workers  # the pool would otherwise read far ahead and fill the memory
    with decoding_threads(workers) as pool:
        for start in range(0, len(records), block):
            part = records[start : start + block]
            for done, (record, result) in enumerate(zip(part, pool.map(read, part), strict=True), start + 1):
                if isinstance(result, str):
                    problems.append((record, result))
                else:
                    facts, large, views = result
                    found.large[len(found.records)] = large
                    found.records.append(record)
                    found.facts.append(facts)
                    if examination is not None:
                        examination.add(record, views)
                progress(done, len(records))
    return found, problems


def _measure_image(path: Path, pixels: np.ndarray) -> tuple[ImageFacts, np.ndarray]:
    """Return the data of a grey image that are kept in memory, and the data that are kept on disk."""
    kind, depth, compression = _container(path)
    height, width = pixels.shape
    scale = THUMBNAIL / max(height, width)
    small = max(8, round(width * scale)), max(8, round(height * scale))
    thumbnail = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    points, descriptors = describe(thumbnail)
    facts = ImageFacts(
        file_hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixel_hash=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        size=(height, width),
        format=kind,
        depth=depth,
        vectors={"size": size_vector(height, width), "compression": compression, **_parts(pixels)},
        thumbnail=thumbnail.shape,
        n_points=len(points),
    )
    large = np.zeros((), LARGE)
    large["thumbnail"][: small[1], : small[0]] = thumbnail
    large["points"][: len(points)] = points
    large["descriptors"][: len(points)] = descriptors
    return facts, large


def size_vector(height: int, width: int) -> np.ndarray:
    """Return the numbers that describe a size, (5,): height, width, aspect, absolute logarithm of the aspect, area."""
    return np.array([height, width, width / height, abs(np.log(width / height)), height * width])


def _parts(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return border, corners, histogram and two small copies of a picture, uint8 (d,) each."""
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


def _container(path: Path) -> tuple[str, int, np.ndarray]:
    """Return a file's format and pixel type, its bits in use, and 67 numbers about its JPEG compression.

    The bits in use are 0, except for grey PNG and TIFF files of more than 8 bits. The 67 numbers are the luminance
    quantisation table (64 numbers), its sum, the chroma sampling, and whether the JPEG is progressive; other formats
    have zeros.
    """
    numbers = np.zeros(67, np.float32)
    with open_regular(path) as file:
        if is_dicom(file):
            return "DICOM", 0, numbers
        image = open_picture(file)
        name = f"{image.format} {image.mode} {image.info.get('compression', '')}".strip()
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image.quantization:
            table = np.array(image.quantization[min(image.quantization)], np.float32)
            numbers[: len(table)] = table
            numbers[64:] = table.sum(), JpegImagePlugin.get_sampling(image), bool(image.info.get("progressive"))
        return name, depth_in_use(image), numbers
