"""Read data sets with the ``datasets`` library, from the Hugging Face Hub or a local folder (extra ``hfds``).

A data set of the Hub is named ``hfds:user/name``; timm uses the same prefix. A local data set is ``hfds:FOLDER``, where
the folder contains images or Parquet files, or was written by ``Dataset.save_to_disk``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cvrnet.data.cells import clean, label_problem, split_name
from cvrnet.data.record import Record, Row
from cvrnet.errors import UserError
from cvrnet.files import image_cache_folder, write_private

HUB_DATASET = "hfds:"
_COLUMNS = ("source", "patient_id", "view")


def scan_hub_dataset(data: str | Path, labelled: bool, rows: list[Row]) -> list[str]:
    """Append the data set's images to `rows`; return the problems of the data set itself.

    Splits and class names (of a ``ClassLabel`` feature) are taken from the data set. The columns ``source``,
    ``patient_id`` and ``view`` are used if they exist; further text columns become metadata. If the data set contains
    its images instead of their paths, each image's bytes are written once to a file in ``hfds``, a folder inside the
    image cache. The files' names are hashes of their content.

    Raises:
        UserError: The data set does not exist, or cannot be loaded.
    """
    name = str(data).removeprefix(HUB_DATASET)
    splits = _load(name)
    features = next(iter(splits.values())).features
    image = _column(features, "Image")
    label = "label" if "label" in features else _column(features, "ClassLabel")
    if image is None:
        return [f"no column of images: expected one of type Image (columns: {', '.join(features)})"]
    if labelled and label is None:
        return [f"no column of labels: expected one named label or of type ClassLabel (columns: {', '.join(features)})"]
    problems = []
    for split, dataset in splits.items():
        # A single split (usually "train") is the whole data set, so its images get no split.
        prefix, known = (f"{split}/", split_name(split)) if len(splits) > 1 else ("", "")
        if known is None:
            problems.append(f"unknown split {split!r}: expected train, validation or test")
            continue
        rows += _rows(dataset, f"{HUB_DATASET}{name}", prefix, known, image, label if labelled else None)
    return problems


def _load(name: str) -> Mapping[str, Any]:
    """Load every split, without decoding the images."""
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
    splits: dict[Any, Any] = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    for split, dataset in splits.items():
        if image := _column(dataset.features, "Image"):
            splits[split] = dataset.cast_column(image, datasets.Image(decode=False))
    return splits


def _rows(dataset: Any, where: str, prefix: str, split: str, image: str, label: str | None) -> Iterator[Row]:
    name_of = getattr(dataset.features[label], "int2str", str) if label else str  # the class name, or text
    texts = [c for c, f in dataset.features.items() if c not in (image, label) and getattr(f, "dtype", "") == "string"]
    folder = image_cache_folder() / "hfds"
    digits = len(str(len(dataset)))
    for number, row in enumerate(dataset):
        stored = row[image] or {}
        path = Path(stored["path"]) if stored.get("path") else None
        shown = f"{number:0{digits}d}" + (f"-{path.name}" if path else "")
        wrong = []
        if stored.get("bytes") is not None:
            path = _store(folder, stored["bytes"])
        elif path is None or not path.is_file():
            wrong.append("the image is missing")
        unknown = not label or row[label] in (None, -1, "")  # in datasets, -1 is a missing label
        name = "" if unknown else clean(name_of(row[label]))
        if label and (problem := label_problem(name)):
            wrong.append(problem)
        fields: Any = {c: str(row[c]) for c in _COLUMNS if row.get(c) is not None}
        record = Record(
            path=path or folder / shown,
            name=f"{prefix}{shown}",
            label=name,
            split=split,
            metadata={c: row[c] for c in texts if c not in _COLUMNS and row[c]},
            where=where,
            **fields,
        )
        yield record, wrong


def _store(folder: Path, data: bytes) -> Path:
    """Write an image to a file, and return the path.

    An existing file is not written again, because the image cache depends on the file's modification time.
    """
    digest = hashlib.sha256(data).hexdigest()[:40]
    path = folder / digest[:2] / digest[2:]
    if not path.is_file():
        write_private(path, data)
    return path


def _column(features: Mapping[str, Any], kind: str) -> str | None:
    """Return the first column whose type in the ``datasets`` library is called `kind`; None without such a column."""
    return next((name for name, feature in features.items() if type(feature).__name__ == kind), None)
