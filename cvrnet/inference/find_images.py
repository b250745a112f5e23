"""Find the images that a PATH argument names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cvrnet.data import read_records
from cvrnet.data.image import is_image_file


def find_images(paths: Iterable[str]) -> Iterator[Path]:
    """Yield the images in files, folders (searched), CSV manifests, ``hfds:`` data sets and patterns, in order.

    A name that matches nothing is yielded unchanged: reading it gives the error.
    """
    for text in paths:
        path = Path(text)
        if text.startswith("hfds:") or (path.suffix.lower() == ".csv" and path.is_file()):
            yield from (record.path for record in read_records(text, labelled=False))
        elif path.is_dir():
            for folder, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                yield from (file for name in sorted(files) if is_image_file(file := Path(folder, name)))
        elif not path.exists() and (matches := sorted(glob.glob(text, recursive=True))):
            yield from map(Path, matches)
        else:
            yield path
