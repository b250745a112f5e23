"""Functions that convert the values of options; each function is the ``type`` of some options."""

from __future__ import annotations

import ast
import csv
import unicodedata
from typing import Any

import click


def names(text: str) -> tuple[str, ...]:
    """Split ``"a, b"`` into ``("a", "b")``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def class_names(text: str) -> tuple[str, ...]:
    """Read a value of ``--classes``: names separated by commas as in CSV, or ``@FILE``, a file with a name per line."""
    if text.startswith("@"):
        from cvrnet.files import open_regular

        try:
            with open_regular(text[1:]) as file:
                lines = file.read(1_000_000).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise click.BadParameter(f"{text[1:]}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise click.BadParameter(f"{text[1:]}: not a text file in UTF-8") from error
    else:
        try:
            lines = next(csv.reader([text], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise click.BadParameter(f"{text!r}: {error}") from error
    composed = (unicodedata.normalize("NFC", line).strip() for line in lines)
    return tuple(name for name in composed if name)


def key_values(text: str) -> dict[str, Any]:
    """Turn ``"a=1, b=x"`` into ``{"a": 1, "b": "x"}``: Python literals are evaluated, other values stay text."""
    values: dict[str, Any] = {}
    for item in names(text):
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{item!r}; expected key=value")
        try:
            values[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[key] = value
    return values


def freezing(text: str) -> int | str:
    """Convert a value of ``--freeze``: ``"all"``, or a number of epochs, 0 or more."""
    if text == "all":
        return text
    if not text.isdigit():
        raise click.BadParameter(f"{text!r}; expected all, or a number of epochs")
    return int(text)


def targets(text: str) -> float | dict[str, float]:
    """Convert a value of ``--sensitivity`` or ``--specificity``.

    The value is one target for all classes, as in ``"0.9"``, or a target for each named class, as in
    ``"CVP=0.95,NCP=0.9"``.
    """
    try:
        if "=" not in text:
            return float(text)
        return {name: float(value) for name, value in (item.rsplit("=", 1) for item in names(text))}
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}; expected a number such as 0.9, or a number for each class, such as CVP=0.95,NCP=0.9"
        ) from error
