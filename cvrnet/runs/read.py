"""Read the JSON and CSV files of a run; a one-line error names a file that is missing or damaged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import damaged_files, open_regular
from cvrnet.runs.layout import ORIGIN, RUN


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file; refuses a file that is missing, damaged or without one of the columns."""
    try:
        with damaged_files(path), io.TextIOWrapper(open_regular(path), "utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path} is damaged: it has no column {', '.join(missing)}")
            return list(reader)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; refuses a file that is missing, damaged or holds another value."""
    try:
        with open_regular(path) as file:
            value = json.loads(file.read().decode())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object; expected what cvrnet writes")
    return value


def read_run(folder: Path) -> dict[str, Any]:
    """The run.json of a run; that of a pulled run without ``data``, since a stranger wrote where to read from."""
    run = read_json(folder / RUN)
    if (folder / ORIGIN).exists():
        run.pop("data", None)
    return run
