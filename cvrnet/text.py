"""Make file names, labels and other untrusted text safe to show in a terminal, a spreadsheet or Markdown."""

from __future__ import annotations

import re
from typing import Any

# Control characters, line separators, characters that change the writing direction, and bytes that are not valid text.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = "=+-@＝＋－＠"  # a cell that starts with one of these is a formula
_SHOWN = 1000  # largest number of characters of a value in Markdown; longer values are cut
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")  # the position between a small and a capital letter
_NUMBER = re.compile(r"[-+][\d\s.,%eE±+-]*")


def printable(text: str) -> str:
    r"""Return the text in one line, with an escape such as ``\x1b`` for each character that could control a terminal.

    >>> print(printable("a\x1b[2J\n\udcff é.png"))
    a\x1b[2J\n\udcff é.png
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def camel_case_words(text: str) -> str:
    """Return the text with a blank between the words of CamelCase.

    >>> camel_case_words("LungMasks"), camel_case_words("imagesTr"), camel_case_words("CVP")
    ('Lung Masks', 'images Tr', 'CVP')
    """
    return _CAPITAL.sub(" ", text)


def sheet_cell(value: Any) -> Any:
    r"""Return a cell that a spreadsheet shows but does not evaluate.

    Control characters are escaped, and ``'`` is put before a formula.

    >>> print(*map(sheet_cell, ["=1+1", "-lung", "-0.5 ± 0.1", "-", -0.5, "a\tb"]), sep="  ")
    '=1+1  '-lung  -0.5 ± 0.1  -  -0.5  a\tb
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(tuple(_FORMULA)) and not _NUMBER.fullmatch(text) else text


def markdown(value: object) -> str:
    r"""Escape a value for Markdown, also inside a table: no part of it acts as markup, HTML or a link.

    >>> print(markdown("a|b\n<b>c</b> [d](http://e)"))
    a\|b \<b\>c\</b\> \[d\](http:\//e)
    """
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = " ".join(text.split())
    text = f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", text).replace("://", r":\//").replace("www.", r"www\.")
