"""Check the class names in a config.json or an ONNX file: a list, or timm's dictionary from class number to name."""

from __future__ import annotations

from typing import Any

from cvrnet.text import printable


def check_names(names: Any, count: int | None) -> None:
    """Raise ValueError if class names are not printable texts, occur twice, or do not fit the number of classes.

    Names are a list, or timm's dictionary from class number to name, which may leave out some classes. If ``count`` is
    None, the number of classes is not known, and is not checked.
    """
    if not names:
        return
    numbered = _by_number(names)
    texts = [*numbered.values()]
    if unsafe := [text for text in texts if printable(text) != text]:
        raise ValueError(f"a class name has a control or invalid character: {unsafe[0]!r:.80}")
    if len(set(texts)) < len(texts):
        raise ValueError("several classes have the same name")
    fits = max(numbered) < (count or 0) if isinstance(names, dict) else len(texts) == count
    if count is not None and not fits:
        given = f"{len(texts)} names, with class numbers up to {max(numbered)} (counted from 0),"
        raise ValueError(f"{given} do not fit a model with {count} classes")


def label_names(names: Any, count: int) -> list[str]:
    """Return the names of ``count`` classes.

    Class N without a name is called ``class_N``. If `check_names` refuses ``names``, no name is used.

    >>> label_names({"0": "CVP", "2": "NOR"}, 3)
    ['CVP', 'class_1', 'NOR']
    >>> label_names(["CVP", "NCP", "NOR"], 2)
    ['class_0', 'class_1']
    """
    try:
        check_names(names, count)
    except ValueError:
        names = None
    texts = _by_number(names) if names else {}
    return [texts.get(i, f"class_{i}") for i in range(count)]


def _by_number(names: Any) -> dict[int, str]:
    """Return a mapping from class number to name; raise ValueError if ``names`` has another form."""
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return dict(enumerate(names))
    from timm.data import CustomDatasetInfo  # imported here, because the lists in ONNX files are read without timm

    try:
        labels = CustomDatasetInfo(names)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"label_names={names!r:.80}; expected a list of texts, or a dictionary from number to text"
        ) from error
    return {i: labels.index_to_label_name(i) for i in labels.label_indices()}
