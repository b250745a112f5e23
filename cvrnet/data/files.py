"""Files appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvrnet.errors import UserError


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A new path in the same folder, to be written by the block, which becomes `path` when the block has ended well.

    The folder is made where it is missing. Readers see the old file or the new one, never a part of either; of two
    processes that write the same file the later one wins.

    Raises:
        UserError: if the file cannot be written (disk full, no permission): one line, and nothing stays behind.
    """
    aside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if aside.parent.is_dir():
            aside.unlink(missing_ok=True)
