"""Find the columns of a manifest that are findings, and columns that seem meant as findings but cannot be used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from cvrnet.data.cells import is_missing
from cvrnet.data.finding_labels import is_no_finding
from cvrnet.data.record import Record
from cvrnet.text import printable

CELLS: Mapping[str, float] = {"1": 1.0, "0": 0.0, "": np.nan}
"""Cell after `plain_cell` -> whether the image has the finding (NaN: not known)."""
UNCERTAIN_CELL = "-1"
EXPECTED = "expected 1, 0, -1 or empty"
_NUMBERS = ("age", "day", "follow_up")  # columns that are not findings, although their cells may be 0 and 1
_WORDS = {*"yn+?", "yes", "no", "true", "false", "positive", "negative", "present", "absent"}  # instead of 1 and 0
_MEANT = 0.5  # least share of 1, 0, -1 and words in a column that is probably meant as a finding
_MEANT_OF_NUMBERS = 0.9  # the least share if all filled cells of the column are numbers


def plain_cell(cell: str) -> str:
    """Return a cell in lower case and without outer blanks, numbers in their shortest form; ``""`` if `is_missing`.

    >>> plain_cell(" 1.0 "), plain_cell("NaN"), plain_cell("N/A"), plain_cell("True")
    ('1', '', '', 'true')
    """
    text = cell.strip().lower()
    number = _number(text)
    return "" if is_missing(text) else text if number is None else f"{number + 0.0:g}"


def finding_columns(records: Sequence[Record], one: str = "1") -> list[str]:
    """Return the names of the columns in ``Record.metadata`` that are findings; ``No Finding`` is left out.

    In such a column, all cells are 1, 0, -1 or empty in the spelling that `plain_cell` returns, and at least one cell
    equals the argument ``one``. The columns age, day and follow_up never count as findings.
    """
    allowed = {*CELLS, UNCERTAIN_CELL}
    return [column for column, cells in _columns(records).items() if one in cells.keys() <= allowed]


def odd_columns(records: Sequence[Record]) -> dict[str, str]:
    """Return column -> a line about its first unexpected cell, for columns that are probably meant as findings.

    In such a column, at least half of the filled cells are 1, 0, -1 or words such as ``yes``. If all filled cells are
    numbers, at least 90% of them must be 1, 0 or -1, because a column of numbers may also hold counts, or codes such as
    1 and 2 for the sex.
    """
    found = {}
    for column, cells in _columns(records).items():
        given = {cell: rows for cell, rows in cells.items() if cell}
        odd = {cell: rows for cell, rows in given.items() if cell not in CELLS and cell != UNCERTAIN_CELL}
        meant = sum(len(rows) for cell, rows in given.items() if cell not in odd or cell in _WORDS)
        least = _MEANT_OF_NUMBERS if all(_number(cell) is not None for cell in odd) else _MEANT
        if not odd or meant < least * sum(map(len, given.values())):
            continue
        first, number = next(iter(odd.values()))[0], sum(map(len, odd.values()))
        where = printable(first.where or first.name)
        more = (
            f", and {number - 1:,} more such cells" if number > 2 else ", and one more such cell" if number > 1 else ""
        )
        cell = first.metadata[column].strip()
        found[column] = f"column {printable(column)} is not a finding: it has {cell!r:.40} ({where}){more}; {EXPECTED}"
    return found


def _columns(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Return each column that may be a finding -> cell, as from `plain_cell` -> its images, in their order."""
    found: defaultdict[str, defaultdict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for column, cell in record.metadata.items():
            if column not in _NUMBERS:
                found[column][plain_cell(cell)].append(record)
    return {column: dict(cells) for column, cells in found.items() if not is_no_finding(column)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
