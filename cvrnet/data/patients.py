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
    r"|undefined|undisclosed|unassigned|missing|removed|deleted|redacted|withheld|hidden|masked|blank|empty"
    r"|(?:not)?(?:available|applicable|known)|not(?:recorded|provided|given|stated|assigned|entered)|tb[ad]"
    r"|none|null|nil|nan|nat|na|nobody|desconocid[oa]|desconhecid[oa]"
    r"|sconosciut[oa]|ignot[oa]|inconnue?|unbekannt|onbekend|nieznan[ya]|neznam[ya]|okand|ukjent|ukendt"
    rf"|неизвестн(?:о|ыи|ая)|nodisponible|bilinmiyor|匿名|未知|不明|不詳|미상)?{_WHOM}"
    r"|x{2,}|0+"
)
_ERROR = re.compile(r"#(N/A|[A-Z0/]+[!?])")  # what a spreadsheet shows for a failed formula
_WHOLE = re.compile(r"(-?\d+)(?:\.0+|,00?)")  # not ",000": this comma separates thousands
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # the wide forms of ASCII, as in １２
_ROUNDED = re.compile(r"-?\d(\.\d+)?[eE][+-]\d+")


def patient_ids(column: Sequence[str]) -> list[str]:
    """Return the patient id in each text of a column; ``""`` if the text names no patient.

    ``12.0`` or ``12,0``, as spreadsheets and pandas write a number, becomes ``12``. Placeholders of de-identified files
    and of empty cells name no patient. ``0`` is a placeholder, too, except in a column that contains ``1``, because the
    ids of this column may start at 0. Ids that differ only in case are spelled like the first of them. ``007`` becomes
    ``7`` if ``7`` is also in the column.

    >>> patient_ids(["12.0", "12", "N/A", "Anonymized Patient", "XXXX", "0", "anon-17"])
    ['12', '12', '', '', '', '', 'anon-17']
    >>> patient_ids(["0", "0.0", "1"])
    ['0', '0', '1']
    >>> patient_ids(["007", "7", "P1", "p1", "008"])
    ['7', '7', 'P1', 'P1', '008']
    """
    ids = _one_of_each([_one_spelling(text) for text in column])
    from_zero = "1" in ids
    return ["" if _is_nobody(text) and not (text == "0" and from_zero) else text for text in ids]


def rounded_problem(text: str) -> str:
    """Return the problem of an id that is a number and has lost digits, such as ``1.2E+05``; ``""`` for other ids."""
    if not _ROUNDED.fullmatch(text):
        return ""
    return f"patient_id {text!r} is a number that a spreadsheet has rounded: write the column as text"


def _one_spelling(text: str) -> str:
    text = " ".join(clean(text.translate(_NARROW)).split())
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _one_of_each(ids: Sequence[str]) -> list[str]:
    """Return the ids, each in one spelling: case as in the first occurrence; ``7`` for ``007`` if ``7`` occurs."""
    first: dict[str, str] = {}
    for text in ids:
        first.setdefault(text.casefold(), text)
    short = [text.lstrip("0") if text.isdecimal() else "" for text in ids]
    return [bare if bare and bare in first else first[text.casefold()] for text, bare in zip(ids, short, strict=True)]


def _is_nobody(text: str) -> bool:
    letters = unicodedata.normalize("NFKD", text).casefold()
    word = _NOBODY.fullmatch("".join(filter(str.isalnum, letters)))
    return bool(word) or text == "-1" or bool(_ERROR.fullmatch(text))
