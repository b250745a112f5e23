"""Check a manifest's header; if a column is missing, suggest a column that may be meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# For each of cvrnet's columns: a pattern of the names that other data sets use. The alternatives for ``path`` are tried
# in this order.
_MEANT = {
    "path": r"path(?!olog)|filename|image ?index|dicom ?id|image|img|file",
    "label": r"label|class|patholog|(?<!no[ _])finding|diagnos|target|categor|condition",
    "source": r"source|hospital|institution|site|dataset|collection",
    "patient_id": r"(patient|subject|person|case) ?_?(id|number|no)|pid$",
    "split": r"split|subset|partition|fold",
    "view": r"view|projection|ap ?/ ?pa",
}


def mapping_problem(header: Sequence[str], names: Mapping[str, str]) -> str:
    """Return why a manifest's columns cannot be renamed; ``""`` if they can.

    ``names`` maps new name -> old name: cvrnet's name of a column -> the column's name in the manifest.

    >>> mapping_problem(["Image Index", "label"], {"path": "Image"})
    "--columns path='Image': no such column (found: 'Image Index', 'label')"
    """
    found = ", ".join(map(repr, filter(None, header)))
    for ours, own in names.items():
        if own not in header:
            return f"--columns {ours}={own!r}: no such column (found: {found})"
        if header.count(own) > 1:
            return f"--columns {ours}={own!r}: {header.count(own)} columns have this name"
        if ours in header and ours not in names.values():
            return f"--columns {ours}={own!r}: another column is called {ours}; rename it too, as in old_{ours}={ours}"
    if twice := [own for own in names.values() if list(names.values()).count(own) > 1]:
        return f"--columns: {twice[0]!r} is given twice; a column can have only one meaning"
    return ""


def our_names(header: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return a manifest's header with its columns renamed to cvrnet's names.

    ``names`` maps new name -> old name: cvrnet's name of a column -> the column's name in the manifest.

    >>> our_names(["Image Index", "label"], {"path": "Image Index"})
    ['path', 'label']
    """
    ours = {own: name for name, own in names.items()}
    return [ours.get(name, name) for name in header]


def plain_names(header: Sequence[str], optional: Sequence[str]) -> list[str]:
    """Return the header; a name with the same letters and digits as a name in ``optional`` is replaced by it.

    Case, punctuation, blanks and underscores do not matter. Without this function, a column ``Split`` would be ignored,
    and its test images would be used for training. If two columns would get the same name, the header is returned
    unchanged.

    >>> plain_names(["path", "label", "Patient ID", "SPLIT", "Site"], ["patient_id", "split", "source"])
    ['path', 'label', 'patient_id', 'split', 'Site']
    """
    ours = {_letters(name): name for name in optional}
    names = [ours.get(_letters(name), name) for name in header]
    given = [name for name in names if name in optional]
    return names if len(set(given)) == len(given) else list(header)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def header_problem(header: Sequence[str], labelled: bool, columns: Sequence[str]) -> str:
    """Return why a manifest cannot have this header; ``""`` if it can.

    ``columns`` are the names of all columns that cvrnet knows; the first two are path and label. The column label is
    required only if ``labelled`` is true.
    """
    if not header:
        return "the manifest is empty"
    text = ", ".join(header)
    short = repr(f"{text[:80]}…" if len(text) > 80 else text)
    if len(set(header)) < len(header):
        return f"a column is named twice: {short}"
    missing = [column for column in columns[: 2 if labelled else 1] if column not in header]
    if missing:
        return f"required column missing: {', '.join(missing)} (found: {short}){_hint(header, columns, missing)}"
    return ""


def _hint(header: Sequence[str], columns: Sequence[str], missing: Sequence[str]) -> str:
    """Return a hint about columns to rename; ``""`` if no column is likely to be one of the missing required columns.

    The hint includes optional columns, because the user has to rename these, too.
    """
    meant = meanings(header, columns)
    if not any(column in missing for column in meant):
        return ""
    options = ",".join(f'{column}="{name}"' for column, name in meant.items())
    are = ", ".join(f"{name!r} is {column}" for column, name in meant.items())
    return f"; perhaps {are}: rename them, or use --columns {options}"


def meanings(header: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Map each of cvrnet's columns that the header lacks to the header's column that is probably meant.

    A column for which the header has no likely name is left out.
    """
    free = [name for name in header if name not in columns]
    meant: dict[str, str] = {}
    for column in (name for name in columns if name not in header):
        pattern = _MEANT.get(column, column)
        for part in pattern.split("|") if column == "path" else [pattern]:
            found = next((name for name in free if re.search(part, name.lower().replace("_", " "))), None)
            if found and column not in meant:
                meant[column] = found
                free.remove(found)
    return meant
