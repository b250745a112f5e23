"""Data to stdout or a file, in the format that was asked for; progress to stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

FORMATS = ("table", "csv", "json", "jsonl")


def write_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], style: str, file: TextIO) -> None:
    """Write rows one at a time, so that any number of them takes constant memory.

    Args:
        rows: One mapping a row.
        columns: The columns, in order.
        style: One of ``FORMATS``.
        file: Where to.
    """
    if style == "csv":
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    elif style == "jsonl":
        for row in rows:
            file.write(json.dumps({c: row[c] for c in columns}, ensure_ascii=False) + "\n")
    elif style == "json":
        file.write("[")
        for i, row in enumerate(rows):
            file.write(("," if i else "") + "\n  " + json.dumps({c: row[c] for c in columns}, ensure_ascii=False))
        file.write("\n]\n")
    else:
        _write_table(rows, columns, file)


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], file: TextIO) -> None:
    """Columns as wide as the first rows need; later rows that need more push their line out."""
    rows = iter(rows)
    first = [[_cell(row[c]) for c in columns] for _, row in zip(range(200), rows, strict=False)]
    widths = [max(len(c), *(len(cells[i]) for cells in first)) if first else len(c) for i, c in enumerate(columns)]
    numeric = [bool(first) and all(_is_number(cells[i]) for cells in first) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True))
        return "  ".join(padded).rstrip() + "\n"

    file.write(line(list(columns)))
    for cells in first:
        file.write(line(cells))
    for row in rows:
        file.write(line([_cell(row[c]) for c in columns]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").isdigit() or text == "-"


@contextmanager
def output_file(path: Path | None, overwrite: bool) -> Iterator[TextIO]:
    """stdout, or a file that appears whole; an existing one is refused unless ``overwrite``."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from cvrnet.files import atomic_write

    if path.exists() and not overwrite:
        raise click.ClickException(f"{path} exists; --overwrite replaces it")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def progress_bar(description: str, unit: str = "image") -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that shows a bar on stderr; nothing is shown where stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(desc=description, unit=unit, disable=None, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def score_rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a set of images, from what metrics.json holds."""
    for name, scores in metrics.items():
        yield {
            "set": name,
            "images": scores["n"],
            "accuracy": scores["accuracy"],
            "balanced_accuracy": scores["balanced_accuracy"],
            "f1_macro": scores["macro"]["f1"],
            "f1_weighted": scores["weighted"]["f1"],
            "auc_macro": scores["macro"]["roc_auc"],
        }


def say(message: str = "") -> None:
    """A message for people, on stderr."""
    click.echo(message, err=True)
