"""Read images and their labels from files, split them, and turn them into batches for a network.

The first and the second CVR-Net paper are arXiv 2007.11993 and medRxiv 2020.11.07.20227504.
"""

from typing import TYPE_CHECKING

from cvrnet.data.cache import ImageCache
from cvrnet.data.data_set import DataSet
from cvrnet.data.image import IMAGE_SUFFIXES, ImageError, read_image
from cvrnet.data.limits import MAX_PIXELS
from cvrnet.data.manifest import write_manifest
from cvrnet.data.phantoms import write_phantoms
from cvrnet.data.preprocessing import Preprocessing, to_batch
from cvrnet.data.record import Record
from cvrnet.data.scan import DataError, check_classes, class_names, read_records, scan_records
from cvrnet.data.splits import INDEPENDENT, holdout_split, make_folds, patient_key
from cvrnet.lazy import lazy_names
from cvrnet.moved import moved_names

if TYPE_CHECKING:
    from cvrnet.data.augmentation import Augmentation

__all__ = [
    "IMAGE_SUFFIXES",
    "INDEPENDENT",
    "MAX_PIXELS",
    "Augmentation",
    "DataError",
    "DataSet",
    "ImageCache",
    "ImageError",
    "Preprocessing",
    "Record",
    "check_classes",
    "class_names",
    "holdout_split",
    "make_folds",
    "patient_key",
    "read_image",
    "read_records",
    "scan_records",
    "to_batch",
    "write_manifest",
    "write_phantoms",
]

_TABLE = "cvrnet.runs.split_table"
_moved = moved_names(__name__, {"SPLIT": "cvrnet.runs.layout", "SplitTable": _TABLE, "split_row": _TABLE})
__getattr__ = lazy_names(__name__, {"Augmentation": "cvrnet.data.augmentation"}, _moved)
