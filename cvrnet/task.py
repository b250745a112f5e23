"""Define the two tasks of a network, multiclass and multilabel, and convert logits to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TASKS = ("multiclass", "multilabel")
"""What a model predicts for an image: its one class (multiclass), or any number of findings (multilabel)."""


def check_num_classes(num_classes: int, task: str = "multiclass") -> None:
    """Raise ValueError if the task is unknown, or ``num_classes`` is negative, or is 1 for ``"multiclass"``."""
    if task not in TASKS:
        raise ValueError(f"task={task!r}; expected 'multiclass' or 'multilabel'")
    if num_classes < 0 or (num_classes == 1 and task == "multiclass"):
        raise ValueError(
            f"num_classes={num_classes}; expected 2 or more, or 0 for no classifier, or 1 with task='multilabel' "
            "(with task='multiclass', a softmax over one class is constant)"
        )


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Return the logarithm of the softmax over the last axis, in float64; large logits do not overflow."""
    x = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, as in PyTorch
        return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def probabilities(logits: ArrayLike, task: str) -> NDArray[np.float64]:
    """Convert logits (..., C) to probabilities in float64: softmax, or with ``task="multilabel"`` sigmoid.

    >>> probabilities([0.0, 0.0], "multiclass")
    array([0.5, 0.5])
    """
    if task == "multilabel":
        return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))
    return np.exp(log_softmax(logits))
