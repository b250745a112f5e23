"""ChestX-ray14 of the NIH Clinical Center (Wang et al. 2017), https://nihcc.app.box.com/v/ChestXray-NIHCC.

Headers and counts of labels, patients and boxes are from the tables that TorchXRayVision distributes
(``torchxrayvision/data`` of mlmed/torchxrayvision); the numbers of images in ``train_val_list.txt`` and
``test_list.txt`` are in the README of gregorywmorris/radiology-chest. ``OriginalImage[Width,Height]`` in the header is
two columns, because it contains a comma. The table of 2017 writes ages as ``058Y`` or ``011M``, and some are over 400;
the table of 2020 writes ``58``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cvrnet.data.boxes import boxes_text
from cvrnet.datasets.folder import Folder, Row, age, numbers, sex
from cvrnet.datasets.public_set import PublicSet

COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")

_BOX = ("Bbox [x", "y", "w", "h]")


def rows(folder: Folder) -> Iterator[Row]:
    """Yield the rows of the manifest. ``label`` has NIH's findings, separated by ``|``."""
    table = folder.file("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    entries = list(folder.table(table, COLUMNS))
    lists = {
        "train": folder.optional("train_val_list.txt"),
        "test": folder.optional("test_list.txt"),
    }
    splits, boxes = folder.split(lists), _boxes(folder)
    for entry in entries:
        name = entry["Image Index"]
        if path := folder.image(name, table.name):
            yield {
                "path": path,
                "label": entry["Finding Labels"],
                "source": "nih",
                "patient_id": entry["Patient ID"],
                "split": splits.get(name, ""),
                "view": entry["View Position"],
                "sex": sex(entry["Patient Gender"]),
                "age": age(entry["Patient Age"]),
                "follow_up": entry.get("Follow-up #", ""),
                "lesion_boxes": boxes_text(boxes[name]),
            }


def _boxes(folder: Folder) -> defaultdict[str, list[list[float]]]:
    """Map images to their boxes. The last name in the header, ``Bbox [x,y,w,h]``, is four columns."""
    boxes: defaultdict[str, list[list[float]]] = defaultdict(list)
    table = folder.optional("BBox_List_2017.csv")
    for entry in folder.table(table, ("Image Index", *_BOX)):
        boxes[entry["Image Index"]].append(numbers(entry, _BOX, "BBox_List_2017.csv"))
    return boxes


NIH = PublicSet(
    "nih",
    "ChestX-ray14",
    f"Data_Entry_2017_v2020.csv or Data_Entry_2017.csv with the columns {', '.join(COLUMNS)}",
    rows,
    {
        "images": 112_120,
        "patients": 30_805,
        "split train": 86_524,
        "split test": 25_596,
        "images with boxes": 880,
        "boxes": 984,
        "label No Finding": 60_361,
        "label Infiltration": 19_894,
        "label Effusion": 13_317,
        "label Atelectasis": 11_559,
        "label Nodule": 6_331,
        "label Mass": 5_782,
        "label Pneumothorax": 5_302,
        "label Consolidation": 4_667,
        "label Pleural_Thickening": 3_385,
        "label Cardiomegaly": 2_776,
        "label Emphysema": 2_516,
        "label Edema": 2_303,
        "label Fibrosis": 1_686,
        "label Pneumonia": 1_431,
        "label Hernia": 227,
    },
)
