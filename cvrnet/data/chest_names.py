"""Decide whether the DICOM tag BodyPartExamined can mean the chest, in many languages and even if it is damaged.

Besides the terms of the standard (PS3.16 Annex L), files contain words of the hospital's language, words that a vendor
chose, and text whose accented letters were lost.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Parts of words: first English and Latin, then other languages
_CHEST = """
    chest thora torax trax torac toraks lung pulm mediastin pleur torso trunk wholebody cxr
    pecho costill costal peito poitrine poumon petto polmon   brust rippe borst longen bryst brost lunga
    klatk piersi pluc hrud plice grudn prsni mellkas piept plaman gogus akciger rintakeha keuhko rindkere kopsu
    krutine kruskurv plauc plaus nguc phoi toracs
    груд груди легк леген торак гръд гърд дроб плућ   θωρακ θωραξ στηθ πνευμον
    胸 肺 폐 胸部 胸腔 胸片 肺部 흉부 흉곽 가슴
    صدر رئة سینه ریه חזה ריאות   छाती फेफड   ทรวงอก ปอด
""".split()  # noqa: SIM905
_CHEST_WORDS = "rib ribs ribcage prsa dada paru paruparu tudo rinta hrudi огк thx cotes".split()  # noqa: SIM905
_SPINE = """
    spine spinal lumb vertebr wirbel bws column colun colonn rachis kregos patere omurga gerinc hryg позвон хребет σπονδ
    脊 椎 척추
""".split()  # noqa: SIM905
# Words that name no part of the body: they say that the part is not known, or how the image was taken.
_NEUTRAL = """
    unknown unk other others none null nil na not specified unspecified undefined undetermined unclassified misc
    miscellaneous general default any anonymized anonymised removed empty unnamed test
    otro otra otros otras autre autres andere anderes sonstige sonstiges altro outro outros inne diger другое 其他 未知
    desconocido desconocida desconhecido inconnu unbekannt sconosciuto nieznane neznamy неизвестно その他 不明 기타
    pa ap lat lateral frontal front portable port bedside mobile erect supine standing upright view views routine
    xray rx xr cr dx dr rg rf ct radiograph radiography radiographie radiografia rontgen exam body bodypart
    adult child pediatric paediatric infant
""".split()  # noqa: SIM905
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe"})  # not decomposed by Unicode
_LOST = "?\N{REPLACEMENT CHARACTER}"  # these replace a letter that could not be encoded, or each of its bytes

# Character sets in which a text may be encoded, even if the file declares another one
_CHARSETS = ("utf-8", "gb18030", "big5", "shift_jis", "euc_jp", "iso2022_jp", "euc_kr", "iso8859_5", "cp1251",
             "iso8859_7", "iso8859_2", "cp1250", "cp850")  # fmt: skip


def may_be_chest(part: str) -> bool:
    """Return whether a BodyPartExamined can mean the chest, or names no part of the body at all.

    >>> [may_be_chest(part) for part in ("TÓRAX", "t?rax ap", "胸部", "OTHER", "", "HAND", "T SPINE")]
    [True, True, True, True, True, False, False]
    """
    written, others = _words(part), [_words(reading) for reading in dict.fromkeys(_readings(part))]
    if any(spine in "".join(words) for words in (written, *others) for spine in _SPINE_FOLDED):
        return False
    # A match of a single character counts only in the text as written. In the text decoded with another character set,
    # it does not count, because two bytes are often a valid character in a wrong set, too.
    chest = _is_chest(written, _CHEST_FOLDED) or any(_is_chest(words, _LONG_FOLDED) for words in others)
    return chest or not _names_something(part) or any(map(_is_neutral, [["".join(written)], written, *others]))


def _readings(text: str) -> Iterator[str]:
    """Yield the text decoded with other character sets; pydicom has decoded its bytes as Latin-1 (PS3.5 6.2)."""
    if text.isascii() and "\x1b" not in text:
        return
    for wrong in ("latin-1", "cp1252"):
        for right in _CHARSETS:
            try:
                yield text.encode(wrong).decode(right)
            except UnicodeError:
                continue


def _fold(text: str) -> str:
    """Return the text in lower case, without accents, and with full-width characters made normal."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold().translate(_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c in _LOST else " " for c in _fold(text)).split()


def _names_something(text: str) -> bool:
    """Return whether the text has a letter, or a character that may be one byte of a letter."""
    return any(c.isalpha() or not (c.isascii() or c in _LOST) for c in text)


def _is_neutral(words: list[str]) -> bool:
    words = [word for word in words if not word.isdecimal()]
    return bool(words) and all(word in _NEUTRAL_FOLDED for word in words)


def _is_chest(words: list[str], parts: list[str]) -> bool:
    whole = "".join(words)
    if any(part in whole for part in parts) or _CHEST_WORDS_FOLDED.intersection(words):
        return True
    if not any(lost in whole for lost in _LOST):
        return False
    found = (pattern.search(whole) for pattern in _WITH_LOST_LETTERS)
    return any(match and sum(c.isalpha() for c in match[0]) > 2 for match in found)


_CHEST_FOLDED = ["".join(_words(part)) for part in _CHEST]
_LONG_FOLDED = ["".join(_words(part)) for part in _CHEST if len(part) > 1]
_CHEST_WORDS_FOLDED = {_fold(word) for word in _CHEST_WORDS}
_NEUTRAL_FOLDED = {_fold(word) for word in _NEUTRAL}
_SPINE_FOLDED = ["".join(_words(part)) for part in _SPINE]
# At most one letter in three is accented, so several lost characters in a row are the bytes of one letter.
_WITH_LOST_LETTERS = [
    re.compile("".join(f"(?:{letter}|[{re.escape(_LOST)}]{{1,3}})" for letter in part))
    for part in _CHEST_FOLDED
    if part.isascii() and len(part) > 3
]
