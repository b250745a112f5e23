"""The options of commands that read a manifest: the folder of its images, and the names of its columns."""

import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def column_names(text: str) -> dict[str, str]:
    """Turn ``'path="Image Index",label=Finding Labels'`` into a dictionary; names with commas are in double quotes."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.quotes, lexer.escape = ",", True, "", '"', ""
    try:
        items = [item.partition("=") for item in lexer]
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: a quotation mark is missing") from error
    columns = {name.strip(): own.strip() for name, _, own in items}
    if wrong := ["".join(item) for item in items if not item[0].strip() or not item[2].strip()]:
        raise click.BadParameter(f'{wrong[0]!r}; expected NAME=COLUMN, such as path="Image Index"')
    if len(columns) < len(items):
        raise click.BadParameter(f"{text!r}: a NAME (before the =) is given twice")
    return columns


_IMAGES = click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="ROOT",
    help="Folder of the images: the paths in the manifest are relative to it.  [default: the manifest's folder]",
)
_COLUMNS = click.option(
    "--columns",
    type=column_names,
    metavar="NAME=COLUMN,...",
    help='The manifest\'s own column names: path="Image Index",label="Finding Labels".  [default: path, label, ...]',
)


def manifest(*arguments: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds ``--images`` and ``--columns`` to a command.

    ``arguments`` are names of the command's arguments. If the user gives one of the two options, the path in each of
    these arguments becomes a ``DataSet``. In an argument with several paths, only the CSV files become data sets.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_data_sets(*, images: Path | None, columns: dict[str, str] | None, **settings: Any) -> Any:
            if images is not None or columns:
                settings |= _placed({name: settings[name] for name in arguments}, images, columns or {})
            return command(**settings)

        return _IMAGES(_COLUMNS(with_data_sets))

    return add


def _placed(given: dict[str, Any], images: Path | None, columns: dict[str, str]) -> dict[str, Any]:
    """Return the command's arguments ``given``, but each path becomes a ``DataSet`` with these images and columns.

    In a tuple of paths, only the CSV files become data sets. It is an error if there is no data set at all.
    """
    from cvrnet.data.data_set import DataSet

    def placed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(placed(path) if path.lower().endswith(".csv") else path for path in value)
        return None if value is None else DataSet(value, images, columns)

    result = {name: placed(value) for name, value in given.items()}
    found = [part for value in result.values() for part in (value if isinstance(value, tuple) else [value])]
    if not any(isinstance(part, DataSet) for part in found):
        raise click.UsageError("--images and --columns need a CSV manifest")
    return result
