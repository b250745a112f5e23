"""Find a file that a manifest names, even if the disk spells its name in another Unicode form."""

from __future__ import annotations

import os
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path, PurePosixPath

Listings = dict[Path, dict[str, str]]  #: for each folder: names in Unicode's composed form -> names on the disk


def locate(root: Path, name: str, listings: Listings) -> tuple[Path, str]:
    """Return the path of the file ``name`` below ``root``, and the reason why it cannot be read (``""`` if it can).

    macOS decomposes accented letters (NFD), so the name of a file that comes from a Mac may differ from the name in the
    manifest. Between calls, ``listings`` caches the names of the files in each folder.
    """
    path = root / name
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        found = None if name.isascii() else _in_other_form(root, name, listings)
        return (path, "file not found") if found is None else (found, "")
    except OSError as error:  # such as a name that is too long
        return path, error.strerror or str(error)
    return path, "" if stat.S_ISREG(mode) else "not a regular file"


def _in_other_form(root: Path, name: str, listings: Listings) -> Path | None:
    path = root
    for part in PurePosixPath(name).parts:
        if path not in listings:
            listings[path] = {}
            with suppress(OSError):
                listings[path] = {unicodedata.normalize("NFC", entry): entry for entry in os.listdir(path)}
        entry = listings[path].get(unicodedata.normalize("NFC", part))
        if entry is None:
            return None
        path /= entry
    return path if path.is_file() else None
