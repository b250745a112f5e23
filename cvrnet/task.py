"""What a network's outputs mean: one of several classes, or findings that may all be present."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TASKS = ("multiclass", "multilabel")
"""What a model may answer: which one of the classes an image belongs to, or which findings it has."""


def check_num_classes(num_classes: int, task: str = "multiclass") -> None:
    """Raise ValueError if ``num_classes`` is negative, or 1 and no finding; or if the task is unknown."""
    if task not in TASKS:
        raise ValueError(f"task={task!r}; expected 'multiclass' or 'multilabel'")
    if num_classes < 0 or (num_classes == 1 and task == "multiclass"):
        raise ValueError(
            f"num_classes={num_classes}: a softmax over one class is constant; expected 2 or more, or 0 for none; "
            "task='multilabel' takes 1"
        )


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """The logarithm of the softmax over the last axis, in float64; large logits do not overflow."""
    x = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, as in PyTorch
        return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def probabilities(logits: ArrayLike, task: str) -> NDArray[np.float64]:
    """The probabilities of classes, or of findings with ``task="multilabel"``, from logits (..., C); in float64.

    >>> probabilities([0.0, 0.0], "multiclass")
    array([0.5, 0.5])
    """
    if task == "multilabel":
        return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))
    return np.exp(log_softmax(logits))
