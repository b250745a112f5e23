"""Images and their labels: from files to the batches that a network takes."""

from cvrnet.data.augmentation import Augmentation
from cvrnet.data.cache import ImageCache
from cvrnet.data.classes import check_classes, class_names
from cvrnet.data.image import IMAGE_SUFFIXES, ImageError, read_image
from cvrnet.data.limits import MAX_PIXELS
from cvrnet.data.manifest import write_manifest
from cvrnet.data.phantoms import write_phantoms
from cvrnet.data.preprocessing import Preprocessing, to_batch
from cvrnet.data.record import Record
from cvrnet.data.scan import DataError, read_records, scan_records
from cvrnet.data.splits import holdout_split, make_folds
from cvrnet.moved import moved_names

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

__getattr__ = moved_names(
    __name__,
    {
        "INDEPENDENT": "cvrnet.runs.layout",
        "SPLIT": "cvrnet.runs.layout",
        "SplitTable": "cvrnet.runs.split_table",
        "split_row": "cvrnet.runs.split_table",
    },
)
