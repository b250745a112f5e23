"""Normalise patient ids, and recognise placeholders for a missing id, in manifests and in DICOM tags."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from cvrnet.data.cells import clean

# Placeholders such as "unknown", "Patient unknown", "patient id" and "XXX". They are compared without accents, case,
# blanks and punctuation.
_WHOM = "(?:patient|subject|person|name|id|no|number)*"
_NOBODY = re.compile(
    rf"{_WHOM}(?:anon(?:[iy]m[a-z]*)?|pseudonym[a-z]*|de?identif[a-z]*|unidentif[a-z]*|unknown|unk|unspecified"
    r"|undefined|undisclosed|missing|removed|deleted|redacted|withheld|hidden|masked|blank|empty"
    r"|(?:not)?(?:available|applicable|known)|none|null|nil|nan|nat|na|nobody|desconocid[oa]|desconhecid[oa]"
    rf"|sconosciut[oa]|ignot[oa]|inconnue?|unbekannt|onbekend|匿名|未知|不明)?{_WHOM}"
    r"|x{2,}|0+"
)
_ERROR = re.compile(r"#(N/A|[A-Z0/]+[!?])")  # what a spreadsheet shows for a failed formula
_WHOLE = re.compile(r"(-?\d+)\.0+")
_ROUNDED = re.compile(r"-?\d(\.\d+)?[eE][+-]\d+")


def patient_ids(column: Sequence[str]) -> list[str]:
    """The patient id in each text, ``""`` if it names no patient. The texts are a data set's column, or a single tag.

    ``12.0``, as spreadsheets and pandas write a number, becomes ``12``. Placeholders of de-identified files and of
    empty cells name no patient. Nor does ``0``, unless the column also has a ``1``: then the numbers start at 0.

    >>> patient_ids(["12.0", "12", "N/A", "Anonymized Patient", "XXXX", "0", "anon-17"])
    ['12', '12', '', '', '', '', 'anon-17']
    >>> patient_ids(["0", "0.0", "1"])
    ['0', '0', '1']
    """
    ids = [_one_spelling(text) for text in column]
    from_zero = "1" in ids
    return ["" if _is_nobody(text) and not (text == "0" and from_zero) else text for text in ids]


def rounded_problem(text: str) -> str:
    """The problem of an id that is a number and has lost digits, such as ``1.2E+05``; ``""`` for other ids."""
    if not _ROUNDED.fullmatch(text):
        return ""
    return f"patient_id {text!r} is a number that a spreadsheet has rounded: write the column as text"


def _one_spelling(text: str) -> str:
    text = " ".join(clean(text).split())
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _is_nobody(text: str) -> bool:
    letters = unicodedata.normalize("NFKD", text).casefold()
    word = _NOBODY.fullmatch("".join(filter(str.isalnum, letters)))
    return bool(word) or text == "-1" or bool(_ERROR.fullmatch(text))
