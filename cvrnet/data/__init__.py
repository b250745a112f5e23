"""Images, their labels, and how they reach the network."""

from cvrnet.data.augmentation import Augmentation
from cvrnet.data.cache import ImageCache
from cvrnet.data.phantoms import write_phantoms
from cvrnet.data.preprocessing import Preprocessing, to_batch
from cvrnet.data.reading import IMAGE_SUFFIXES, MAX_PIXELS, ImageError, read_image
from cvrnet.data.records import (
    DataError,
    Record,
    check_classes,
    class_names,
    read_records,
    scan_records,
    write_manifest,
)
from cvrnet.data.splits import holdout_split, make_folds

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Augmentation",
    "DataError",
    "ImageCache",
    "ImageError",
    "Preprocessing",
    "Record",
    "check_classes",
    "class_names",
    "holdout_split",
    "make_folds",
    "read_image",
    "read_records",
    "scan_records",
    "to_batch",
    "write_manifest",
    "write_phantoms",
]
