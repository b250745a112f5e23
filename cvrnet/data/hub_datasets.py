"""Data sets of the Hugging Face Hub, or in its formats: ``hfds:user/name`` (extra ``hfds``).

timm's prefix for the ``datasets`` library. What it finds locally it takes too: ``hfds:FOLDER`` of images, of Parquet
files, or one that ``Dataset.save_to_disk`` wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cvrnet.data.record import SPLITS, Record, Row
from cvrnet.data.scan import HUB_DATASET
from cvrnet.errors import UserError
from cvrnet.files import atomic_write, image_cache_folder

_COLUMNS = ("source", "patient_id", "view")


def scan_hub_dataset(data: str | Path, labelled: bool, rows: list[Row]) -> list[str]:
    """Append the data set's images, and give what is wrong with the data set itself.

    Splits and class names are the data set's own (its ``ClassLabel`` feature). The columns ``source``, ``patient_id``
    and ``view`` are taken where there are any, further text columns become metadata. Images that are not files already
    are written, as they were stored, beside the cache of decoded images, once, named by their content.

    Args:
        data: ``hfds:user/name``, ``hfds:user/name@revision`` or ``hfds:FOLDER``.
        labelled: Whether each image must have a label.
        rows: Gets one row an image.

    Raises:
        UserError: There is no such data set, or it cannot be had.
    """
    name = str(data).removeprefix(HUB_DATASET)
    splits = _load(name)
    first = next(iter(splits.values()))
    image, label = _image_column(first.features), _label_column(first.features)
    if image is None:
        return [f"no column of images (columns: {', '.join(first.features)})"]
    if labelled and label is None:
        return [f"no column of labels, named label or of the type ClassLabel (columns: {', '.join(first.features)})"]
    problems = []
    for split, dataset in splits.items():
        known = SPLITS.get(split.lower()) if len(splits) > 1 else ""
        if known is None:
            problems.append(f"unknown split {split!r}: expected train, validation or test")
            continue
        rows += _rows(name, split, known, dataset, image, label if labelled else None, len(splits) > 1)
    return problems


def _load(name: str) -> Mapping[str, Any]:
    """Every split, with images left as they are stored."""
    import datasets

    try:
        if Path(name, "dataset_dict.json").is_file() or Path(name, "state.json").is_file():
            loaded = datasets.load_from_disk(name)
        else:
            repository, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
            loaded = datasets.load_dataset(repository, revision=revision or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{HUB_DATASET}{name}: the data set cannot be loaded: {reason}") from error
    splits: dict[str, Any] = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    for split, dataset in splits.items():
        if (image := _image_column(dataset.features)) is not None:
            splits[split] = dataset.cast_column(image, datasets.Image(decode=False))
    return splits


def _rows(
    name: str, split: str, known: str, dataset: Any, image: str, label: str | None, in_folders: bool
) -> Iterator[Row]:
    feature: Any = dataset.features[label] if label else None
    texts = [c for c, f in dataset.features.items() if c not in (image, label) and getattr(f, "dtype", "") == "string"]
    folder = image_cache_folder() / "hfds"
    digits = len(str(len(dataset)))
    for number, row in enumerate(dataset):
        stored, wrong = row[image] or {}, []
        path = Path(stored["path"]) if stored.get("path") else None
        data = stored.get("bytes")
        shown = f"{number:0{digits}d}" + (f"-{path.name}" if path else "")
        if data is None and (path is None or not path.is_file()):
            wrong.append("the image is missing")
        elif data is not None:
            path = _store(folder, data)
        value = None if label is None else row[label]
        if label is not None and (value is None or value == -1 or value == ""):
            wrong.append("empty label")
            value = None
        text = "" if value is None else str(feature.int2str(value) if hasattr(feature, "int2str") else value)
        fields: Any = {c: str(row[c]) for c in _COLUMNS if c in row and row[c] is not None}
        record = Record(
            path=path or folder / shown,
            name=f"{split}/{shown}" if in_folders else shown,
            label=text,
            split=known,
            metadata={c: row[c] for c in texts if c not in _COLUMNS and row[c]},
            where=f"{HUB_DATASET}{name}",
            **fields,
        )
        yield record, wrong


def _store(folder: Path, data: bytes) -> Path:
    """The image as a file; one that is there already stays, so that what was decoded from it stays valid."""
    digest = hashlib.sha256(data).hexdigest()[:40]
    path = folder / digest[:2] / digest[2:]
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    return path


def _image_column(features: Mapping[str, Any]) -> str | None:
    return next((name for name, feature in features.items() if type(feature).__name__ == "Image"), None)


def _label_column(features: Mapping[str, Any]) -> str | None:
    if "label" in features:
        return "label"
    return next((name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"), None)
