"""The JSON and CSV files of a run, read; what is damaged is named in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from cvrnet.errors import UserError
from cvrnet.files import damaged_files


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        UserError: There is none, or it is none.
    """
    try:
        with damaged_files(path), path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a run or an evaluation holds.

    Raises:
        UserError: There is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object; expected what cvrnet writes")
    return value
