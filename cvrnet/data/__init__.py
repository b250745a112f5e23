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
from cvrnet.data.split_table import INDEPENDENT, SPLIT, SplitTable, split_row
from cvrnet.data.splits import holdout_split, make_folds

__all__ = [
    "IMAGE_SUFFIXES",
    "INDEPENDENT",
    "MAX_PIXELS",
    "SPLIT",
    "Augmentation",
    "DataError",
    "ImageCache",
    "ImageError",
    "Preprocessing",
    "Record",
    "SplitTable",
    "check_classes",
    "class_names",
    "holdout_split",
    "make_folds",
    "read_image",
    "read_records",
    "scan_records",
    "split_row",
    "to_batch",
    "write_manifest",
    "write_phantoms",
]
