"""Check and normalise the labels and splits in a manifest's cells: spelling, placeholders, values not accepted."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from cvrnet.data.finding_labels import SEPARATOR
from cvrnet.data.record import Record
from cvrnet.text import printable

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_MISSING = {"", "nan", "nat", "none", "null", "na", "n/a", "#n/a", "<na>"}
_SPLITS = {
    "": "",
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def clean(text: str) -> str:
    r"""The text in Unicode's composed form (NFC), without blanks and invisible characters at its ends.

    >>> clean(" Ne\u0301ant\u00a0"), clean("\ufeffCVP\u200b")
    ('Néant', 'CVP')
    """
    before, text = "", unicodedata.normalize("NFC", text)
    while text != before:
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def is_missing(text: str) -> bool:
    """Whether a cell is empty, or holds a placeholder for an empty cell, such as ``nan``, ``None`` or ``N/A``."""
    return text.lower() in _MISSING


def split_name(text: str) -> str | None:
    """The split that a cell names: ``train``, ``val`` or ``test``; ``""`` for an empty cell, None for other text.

    Upper and lower case are equal, and words such as ``set`` at the end are ignored.

    >>> split_name("Training"), split_name("DEV"), split_name("test_data"), split_name("fold 1")
    ('train', 'val', 'test', None)
    """
    name = "" if is_missing(text) else re.sub(r"[\W_]+", "", text.lower())
    return _SPLITS.get(re.sub("(data|set|images?|split)+$", "", name) or name)


def label_problem(label: str) -> str:
    """Why a label, after `clean`, cannot be a class; ``""`` if it can.

    >>> label_problem("None"), label_problem("CVP")
    ("label 'None' is not a class: name the class, or leave the image out", '')
    """
    if not label:
        return "empty label"
    if is_missing(label):
        return f"label {label!r} is not a class: name the class, or leave the image out"
    if printable(label) != label:
        return f"label {label!r} has a character that cannot be printed: write the name without it"
    if SEPARATOR in label:
        return f"label {label!r} names several classes: choose one for each image, or learn findings (--findings auto)"
    return ""


def spelling_problems(records: Iterable[Record]) -> list[str]:
    """A line for each class whose name has several spellings that differ only in case or blanks."""
    spellings: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        text = unicodedata.normalize("NFKC", record.label).casefold()
        key = "".join(c for c in text if not c.isspace() and c not in _INVISIBLE)
        spellings[key][record.label].append(record)
    problems = []
    for found in spellings.values():
        if len(found) > 1:
            each = (f"{label!r} ({len(of)}, first {of[0].where or of[0].name})" for label, of in sorted(found.items()))
            problems.append(f"labels that differ only in case or blanks: {', '.join(each)}; spell them in one way")
    return problems
