"""The classes of a data set, and those that a model knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cvrnet.data.record import Record
from cvrnet.errors import UserError


def class_names(records: Iterable[Record], classes: Sequence[str] | None = None) -> list[str]:
    """The classes in the order of the network's outputs: alphabetical, or as given.

    Raises:
        UserError: there are fewer than two classes, an image has no label, or the given classes are not exactly those
            of the images.

    >>> from pathlib import Path
    >>> class_names([Record(Path("a"), "a", "NOR"), Record(Path("b"), "b", "CVP")])
    ['CVP', 'NOR']
    """
    found = sorted({record.label for record in records})
    if "" in found:
        raise UserError("some images have no label")
    names = found if classes is None else list(classes)
    if len(set(names)) < len(names):
        raise UserError(f"classes {', '.join(names)}: each must be given once")
    if unknown := [name for name in found if name not in names]:
        raise UserError(f"labels not among the classes {', '.join(names)}: {', '.join(unknown)}")
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"classes without an image: {', '.join(missing)} (the images have {', '.join(found) or 'none'})"
        )
    if len(names) < 2:
        raise UserError(f"only one class ({', '.join(names)}): at least 2 are needed")
    return names


def check_classes(labels: Iterable[str], classes: Sequence[str]) -> None:
    """Refuse labels that a model does not know. Classes without an image are accepted.

    Raises:
        UserError: the line names the unknown labels and the model's classes.
    """
    if unknown := sorted(set(labels) - set(classes)):
        raise UserError(f"the model does not know the class {', '.join(unknown)}; expected {', '.join(classes)}")
