"""Read the JSON and CSV files of a run; a one-line error names a file that is missing or damaged."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvrnet.data.data_set import COLUMN_NAMES, IMAGES_ROOT
from cvrnet.errors import UserError
from cvrnet.files import damaged_files, open_regular
from cvrnet.runs.layout import MAX_FOLDS, ORIGIN, RUN, fold_name
from cvrnet.strict_json import parse_json


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a CSV file.

    Raises:
        UserError: The file is missing, is damaged, or lacks one of ``columns``.
    """
    try:
        with damaged_files(path), io.TextIOWrapper(open_regular(path), "utf-8", newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path} is damaged: it has no column {', '.join(missing)}")
            return list(reader)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        UserError: The file is missing, is damaged, or does not hold a JSON object.
    """
    try:
        with open_regular(path) as file:
            value = parse_json(file.read().decode())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a finished run: it has no {path.name}") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object; expected a file that cvrnet wrote")
    return value


def read_run(folder: Path) -> dict[str, Any]:
    """Return the run.json of a run.

    If the run is from the Hub, the paths and column names of its data set are left out, because they are untrusted.
    """
    run = read_json(folder / RUN)
    if (folder / ORIGIN).exists():
        for key in ("data", IMAGES_ROOT, COLUMN_NAMES):
            run.pop(key, None)
    return run


def read_folds(folder: Path, run: Mapping[str, Any]) -> list[Path]:
    """Return the folders of all folds of a cross-validation, from its run.json.

    Raises:
        UserError: The number of folds in run.json is not a whole number from 1 to `MAX_FOLDS`.
    """
    folds = run.get("folds")
    if type(folds) is not int or not 1 <= folds <= MAX_FOLDS:
        raise UserError(
            f"{folder / RUN} has {str(folds)[:40]!r} folds; expected a whole number from 1 to {MAX_FOLDS:,}"
        )
    return [folder / fold_name(fold) for fold in range(1, folds + 1)]
