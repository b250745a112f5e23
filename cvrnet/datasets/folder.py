"""Read tables and lists in the folder of a public data set, find its images, and count images that are left out."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, cast

from cvrnet.data.cells import clean
from cvrnet.data.walk import Found, walk
from cvrnet.errors import UserError
from cvrnet.files import open_regular
from cvrnet.formatting import count

Row = dict[str, str]  #: a row of a table, or of a manifest
SHOWN = 5  # a message shows at most this many names


class Folder:
    """A public data set on the disk.

    Attributes:
        root: The folder.
        left_out: Reason -> number of images that are left out of the manifest.
        missing: Table or list -> the files that are named in it but do not exist.
        notes: Sentences for the user.
    """

    def __init__(self, root: str | Path, name: str, expects: str) -> None:
        self.root = Path(os.path.abspath(root))
        self.left_out: Counter[str] = Counter()
        self.missing: defaultdict[str, list[str]] = defaultdict(list)
        self.notes: list[str] = []
        self._name, self._expects = name, expects
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder")

    def refusal(self, reason: str = "") -> UserError:
        """Return the error for a folder that does not contain this data set."""
        why = f" ({reason})" if reason else ""
        return UserError(f"{self.root}: this does not look like {self._name}: expected {self._expects}{why}")

    @cached_property
    def found(self) -> Found:
        """The images, masks and folders below ``root``, as POSIX paths relative to ``root``."""
        return walk(self.root)

    @cached_property
    def images(self) -> set[str]:
        """The paths of all images, without the masks."""
        return set(self.found.images)

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """File name -> path; the first path of several files with the same name."""
        paths: dict[str, str] = {}
        for path in self.found.images:
            paths.setdefault(PurePosixPath(path).name, path)
        return paths

    def image(self, name: str, table: str) -> str:
        """Return the path of an image that a table names by path or by file name alone; ``""`` if it does not exist.

        A missing image is recorded in ``missing``, under the name of the table.
        """
        path = name if name in self.images else self._by_name.get(name, "") if "/" not in name else ""
        if not path:
            self.missing[table].append(name)
        return path

    def file(self, *names: str) -> Path:
        """Return the first of these files that exists, plain or as ``.gz``; raise UserError if none exists."""
        if path := self.optional(*names):
            return path
        raise self.refusal(f"{names[0]} is missing")

    def optional(self, *names: str) -> Path | None:
        """Like `file`, but returns None if none of the files exists."""
        paths = (self.root / f"{name}{ending}" for name in names for ending in ("", ".gz"))
        return next(filter(Path.is_file, paths), None)

    def table(self, path: Path | None, columns: Sequence[str] = ()) -> Iterator[Row]:
        """Yield the rows of a CSV file, column -> cell; no rows if ``path`` is None.

        Cells that are missing at the end of a row become ``""``.

        Raises:
            UserError: One of ``columns`` is missing, two columns have the same name, or the file is not text in UTF-8.
        """
        if path is None:
            return
        with self._text(path) as file:
            reader = csv.reader(file)
            header = [clean(name) for name in next(reader, [])]
            if absent := [name for name in columns if name not in header]:
                raise self.refusal(f"{path.name} has no column {', '.join(absent)}")
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise UserError(f"{path}: a column is named twice: {twice[0]!r}")
            for cells in reader:
                if cells:
                    cells = [*map(str.strip, cells), *[""] * (len(header) - len(cells))]
                    yield dict(zip(header, cells, strict=False))

    def lines(self, path: Path | None) -> list[str]:
        """Return the lines of a text file, without empty ones; an empty list if ``path`` is None."""
        if path is None:
            return []
        with self._text(path) as file:
            return [line.strip() for line in file if line.strip()]

    @contextmanager
    def _text(self, path: Path) -> Iterator[IO[str]]:
        try:
            with open_regular(path) as raw:
                file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
                yield io.TextIOWrapper(cast(IO[bytes], file), encoding="utf-8-sig", newline="")
        except (UnicodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: not readable as text in UTF-8: {error}") from error

    def split(self, lists: dict[str, Path | None]) -> dict[str, str]:
        """Map images to splits, from a list of image names for each split; `missing` gets names without an image file.

        Raises:
            UserError: An image is in two lists.
        """
        splits: dict[str, str] = {}
        for split, path in lists.items():
            for name in self.lines(path):
                if splits.setdefault(name, split) != split:
                    raise UserError(f"{path}: {name} is in the list of {splits[name]} too")
                self.image(name, f"the list of {split}")
        if absent := [split for split, path in lists.items() if path is None]:
            self.notes.append(f"no official split for {', '.join(absent)}: the list is missing")
        return splits

    def missing_sentences(self) -> list[str]:
        """Return a line for each table or list that names missing files: their number, and the first five names."""
        return [
            f"{table} names {count(len(names), 'file that is', 'files that are')} not there: {_first(names)}"
            for table, names in self.missing.items()
        ]


def _first(names: Iterable[str]) -> str:
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:SHOWN]) + (", …" if len(shown) > SHOWN else "")


def numbers(row: Row, columns: Sequence[str], table: str) -> list[float]:
    """Return the numbers in these columns of a table's row.

    Raises:
        UserError: A cell is not a number.
    """
    try:
        return [float(row[column]) for column in columns]
    except ValueError as error:
        cells = ", ".join(row[column] for column in columns)
        raise UserError(f"{table}: {', '.join(columns)} are {cells!r:.80}; expected numbers") from error


def number(text: str) -> str:
    """Return the number at the start of a cell, in its shortest form; ``""`` without a number, or if it is negative.

    >>> number("058Y"), number("63.0"), number("-1"), number("")
    ('58', '63', '', '')
    """
    digits = ""
    for character in text.strip():
        if not (character.isdigit() or character in ".-"):
            break
        digits += character
    try:
        value = float(digits)
    except ValueError:
        return ""
    return f"{value:.10g}" if value >= 0 else ""


def age(text: str) -> str:
    """Return whole years from an age in years or with a DICOM unit (Y, M, W, D); ``""`` without a number, or above 120.

    >>> age("058Y"), age("011M"), age("63.0"), age("411")
    ('58', '0', '63', '')
    """
    of_a_year = {"M": 12, "W": 52, "D": 365}.get(text.strip()[-1:].upper(), 1)
    value = number(text)
    years = str(int(float(value) / of_a_year)) if value else ""
    return years if years and int(years) <= 120 else ""


def sex(text: str) -> str:
    """Return ``F`` or ``M`` for a text that begins with this letter in either case; ``""`` for other texts.

    >>> sex("Female"), sex("m"), sex("Unknown")
    ('F', 'M', '')
    """
    letter = text.strip()[:1].upper()
    return letter if letter in ("F", "M") else ""


def finding(text: str) -> str:
    """Return a finding's cell: ``1`` present, ``0`` absent, ``-1`` uncertain, ``""`` not known.

    >>> finding("1.0"), finding("-1.0"), finding("")
    ('1', '-1', '')
    """
    return {"1": "1", "0": "0", "-1": "-1"}.get(text.removesuffix(".0"), "")


def days(rows: list[Row], dates: Sequence[int | None]) -> None:
    """Write the column ``day`` of each row: the number of days since the first image of its patient.

    ``dates`` has a number of days for each row, counted from any date; None if the row's date is not known.
    """
    first: dict[str, int] = {}
    for row, date in zip(rows, dates, strict=True):
        if date is not None:
            first[row["patient_id"]] = min(date, first.get(row["patient_id"], date))
    for row, date in zip(rows, dates, strict=True):
        row["day"] = "" if date is None else str(date - first[row["patient_id"]])
