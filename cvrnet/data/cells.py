"""Check and normalise the labels and splits in a manifest's cells: spelling, placeholders and refused values."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from cvrnet.data.finding_labels import SEPARATOR
from cvrnet.data.record import Record
from cvrnet.text import camel_case_words, printable

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_MISSING = {"", "nan", "nat", "none", "null", "na", "n/a", "#n/a", "<na>"}
_SPLITS = {
    "": "",
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
    **dict.fromkeys(("validate", "validating"), "val"),
}
# Short names of splits, as in nnU-Net's imagesTr and images_ts. A short name counts only beside another word, because a
# cell or folder with only these letters may name a class or a hospital.
_SHORT_SPLITS = {"tr": "train", "vl": "val", "ts": "test", "te": "test"}
_BETWEEN = re.compile(r"[,;/+&]| and ")  # separators of findings in a label, besides SEPARATOR
_WORD = re.compile(r"[^\W\d_]+")
_FILLERS = re.compile(
    r"(data|sets?|split|images?|imgs?|pictures?|x|rays?|xrays?|cxrs?|radiographs?|chest|cases?|samples?|files?|folder)+"
)


def clean(text: str) -> str:
    r"""Return the text in Unicode's composed form (NFC), without blanks and invisible characters at its ends.

    >>> clean(" Ne\u0301ant\u00a0"), clean("\ufeffCVP\u200b")
    ('Néant', 'CVP')
    """
    before, text = "", unicodedata.normalize("NFC", text)
    while text != before:
        before, text = text, text.strip().strip(_INVISIBLE)
    return text


def is_missing(text: str) -> bool:
    """Return whether a cell is empty, or has a placeholder for an empty cell, such as ``nan``, ``None`` or ``N/A``."""
    return text.lower() in _MISSING


def split_name(text: str) -> str | None:
    """Return the split that a cell names (``train``, ``val`` or ``test``); ``""`` for an empty cell; else None.

    Upper and lower case do not matter. Numbers, and words such as ``set`` or ``chest_xray``, are ignored. Two letters
    such as ``ts`` name a split only beside an ignored word, such as ``images`` in ``imagesTs``.

    >>> split_name("Training"), split_name("DEV"), split_name("test_data"), split_name("fold 1")
    ('train', 'val', 'test', None)
    >>> split_name("01_train"), split_name("chest_xray_val"), split_name("imagesTs"), split_name("TS")
    ('train', 'val', 'test', None)
    """
    if is_missing(text) or not re.sub(r"[\W_]+", "", text):
        return ""
    if re.fullmatch(r"[\W_]*hold[\W_]*out[\W_]*", text.lower()):
        return "test"
    words = [word.lower() for word in _WORD.findall(camel_case_words(text))]
    named = [word for word in words if not _FILLERS.fullmatch(word)]
    if len(named) != 1:
        return None
    name = re.sub("(data|sets?|images?|split)+$", "", named[0]) or named[0]
    return _SPLITS.get(name) or (_SHORT_SPLITS.get(name) if len(words) > 1 else None)


def label_problem(label: str) -> str:
    """Return the reason why a label, after `clean`, cannot be a class; ``""`` if it can be one.

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
    """Return a line for each group of labels that differ only in case or blanks, or like ``A, B`` and ``B, A``."""
    spellings: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        text = unicodedata.normalize("NFKC", record.label).casefold()
        key = "".join(c for c in text if not c.isspace() and c not in _INVISIBLE)
        spellings[key][record.label].append(record)
    problems = []
    for found in spellings.values():
        if len(found) > 1:
            each = (
                f"{label!r} (images: {len(of)}, first: {of[0].where or of[0].name})"
                for label, of in sorted(found.items())
            )
            problems.append(f"labels that differ only in case or blanks: {', '.join(each)}; spell them in one way")
    names = sorted({spelled for found in spellings.values() for spelled in found})
    orders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label in names:
        orders[tuple(sorted(part.strip().casefold() for part in _BETWEEN.split(label)))].append(label)
    for same in orders.values():
        if len(same) > 1 and len(_BETWEEN.split(same[0])) > 1:
            problems.append(
                f"labels that differ only in the order of their parts: {', '.join(map(repr, same))}; choose one "
                f"class for each image, or separate findings by {SEPARATOR} and learn them (--findings auto)"
            )
    return problems
