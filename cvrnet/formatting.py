"""Format numbers as text: scores, mean ± standard deviation, 95 % intervals, and counts with their noun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"


def number(value: float | Mapping[str, float | None] | None) -> str:
    """Format a score (three decimals), a mean with its standard deviation, or a count (with commas); a dash for None.

    >>> number(0.96349), number(None), number(-0.05), number(1200)
    ('0.963', '–', '−0.050', '1,200')
    >>> number({"mean": 0.9634, "std": 0.00445, "n": 5})
    '0.963 ± 0.004'
    """
    if isinstance(value, Mapping):
        return UNDEFINED if value["mean"] is None else f"{number(value['mean'])} ± {number(value['std'])}"
    if value is None:
        return UNDEFINED
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def spread(value: Mapping[str, Any]) -> str:
    """Format mean ± standard deviation with an ASCII minus and dash, for the terminal, CSV and Markdown.

    >>> spread({"mean": -0.9634, "std": 0.00445, "n": 5}), spread({"mean": None, "std": None, "n": 0})
    ('-0.963 ± 0.004', '-')
    """
    return number(value).replace(UNDEFINED, "-").replace("\N{MINUS SIGN}", "-")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Format a number with its 95 % interval, if there is one.

    >>> interval(0.9, 0.85, 0.94), interval(0.9, None, None)
    ('0.900 (0.850–0.940)', '0.900')
    """
    return number(value) if low is None else f"{number(value)} ({number(low)}–{number(high)})"


def counts(values: Mapping[str, int]) -> str:
    """Format names with their counts: ``NOR 1,200, CVP 30``."""
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def count(n: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> count(1, "image"), count(1200, "image"), count(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"
