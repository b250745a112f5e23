"""Describe where a data set is: its folder or manifest, the folder of its images, and the manifest's column names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGES_ROOT, COLUMN_NAMES = "images_root", "columns"
"""Keys of run.json for `DataSet.images` and `DataSet.columns`. (The key ``images`` of run.json is something else: the
number of images of each class.)"""


@dataclass(frozen=True)
class DataSet:
    """A data set: its folder or manifest, the folder of its images, and the manifest's column names.

    Every function that takes a data set's path also takes an object of this class. The object can also be used as a
    path (``os.PathLike``): the path of the folder or manifest.
    """

    path: str | Path  #: path of the folder or manifest, or ``hfds:user/name``; see `cvrnet.data.read_records`
    images: str | Path | None = None  #: folder that a manifest's paths are relative to; None: the manifest's folder
    columns: Mapping[str, str] = field(default_factory=dict)  #: cvrnet's name of a column -> its name in the manifest

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, data: DataPath, images: str | Path | None = None, columns: Mapping[str, str] | None = None) -> DataSet:
        """Return ``data`` as a `DataSet`; ``images`` and ``columns``, if given, replace those of ``data``."""
        if not isinstance(data, DataSet):
            return cls(Path(data) if isinstance(data, os.PathLike) else data, images, columns or {})
        return cls(data.path, images or data.images, columns or data.columns)

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> DataSet | None:
        """Return the data set that a run.json names; None if it names no data set, as in a downloaded run."""
        columns = run.get(COLUMN_NAMES)
        images = run.get(IMAGES_ROOT)
        if not run.get("data"):
            return None
        return cls(
            str(run["data"]),
            images if isinstance(images, str) else None,
            columns if isinstance(columns, Mapping) else {},
        )

    def for_run(self) -> dict[str, Any]:
        """Return the entries of run.json from which `of_run` makes this object again."""
        place = {"data": str(Path(self).absolute())}
        if self.images:
            place[IMAGES_ROOT] = os.path.abspath(self.images)
        return {**place, COLUMN_NAMES: dict(self.columns)} if self.columns else place

    def root(self, manifest: Path) -> Path:
        """Return the folder that the paths in a manifest are relative to; ``manifest`` is the manifest's own path."""
        return Path(os.path.abspath(self.images)) if self.images else manifest.parent

    @property
    def is_manifest(self) -> bool:
        """Whether the data set is a CSV manifest, or a folder that contains ``manifest.csv``."""
        path = Path(self)
        return path.is_file() or (path / "manifest.csv").is_file()

    def image_folder(self) -> Path:
        """Return the folder that the names of the images are relative to, whether or not it exists."""
        path = Path(self)
        return Path(self.images) if self.images else path if path.is_dir() else path.parent


DataPath = str | os.PathLike[str]
"""The path of a data set: a folder, a manifest, ``hfds:user/name``, or a `DataSet`."""
