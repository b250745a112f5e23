"""The objective of training, for one class per image or for findings: the loss, and the scores on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cvrnet.data import Record
from cvrnet.data.findings import Truth, known_findings
from cvrnet.metrics.findings import finding_rankings
from cvrnet.metrics.inputs import check
from cvrnet.metrics.scores import confusion_matrix, confusion_scores, sample_log_loss
from cvrnet.training.config import TrainConfig


class Objective(Protocol):
    """What training minimises and reports: the loss of each training image, and the scores on validation images."""

    @property
    def labels(self) -> Sequence[Any]:
        """The labels of the training images; the loader passes them on to `losses`."""
        ...

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (N,), from float32 logits (N, classes) and the loader's labels."""
        ...

    def scores(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        """Return the scores to write to history.csv, from the probabilities of the validation images (N, classes)."""
        ...


def make_objective(
    config: TrainConfig, train: Sequence[Record], val: Sequence[Record], classes: Sequence[str], device: torch.device
) -> Objective:
    """Return the objective for training on ``train`` with validation on ``val``.

    ``classes`` are in the order of the logits.
    """
    if config.findings:
        truth, validation = known_findings(train), known_findings(val)
        return FindingsObjective(config, truth, validation, device)
    labels, known = ([classes.index(record.label) for record in part] for part in (train, val))
    return OneClass(config, labels, known, classes, device)


class OneClass:
    """Objective for one class per image: cross-entropy (second paper, section 5.2).

    With the config's ``class_weights``, the loss of an image of class j is multiplied by N_max / N_j (see the
    function `class_weights`).
    """

    def __init__(
        self,
        config: TrainConfig,
        labels: list[int],
        validation: list[int],
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.labels, self.validation = labels, validation
        self.smoothing, self.classes = config.label_smoothing, list(classes)
        self.weights = class_weights(self.labels, len(classes)).to(device) if config.class_weights else None

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        return losses if self.weights is None else losses * self.weights[labels]

    def scores(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        """See `Objective`."""
        labels, table = check(self.validation, probabilities, self.classes)
        matrix = confusion_matrix(labels, table)
        found = confusion_scores(matrix.diagonal(), matrix.sum(1), matrix.sum(0), self.classes)
        return {
            "val_loss": float(sample_log_loss(labels, table).mean()),
            "val_accuracy": float(found["accuracy"]),
            "val_f1_macro": float(found["macro"]["f1"]),
        }


class FindingsObjective:
    """Objective for findings: binary cross-entropy, summed over an image's known findings.

    The sum is divided by the number of all findings. With the config's ``class_weights``, a finding's loss on images
    that have the finding is multiplied by (images without it) / (images with it), at least by 1 and at most by
    ``max_pos_weight``.
    """

    def __init__(self, config: TrainConfig, truth: Truth, validation: Truth, device: torch.device) -> None:
        self.labels, self.validation = list(torch.from_numpy(truth).float()), validation
        self.smoothing = config.label_smoothing
        highest = config.max_pos_weight if config.class_weights else 1.0
        self.weights = torch.from_numpy(positive_weights(truth, highest)).float().to(device)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        known = ~labels.isnan()
        target = torch.where(known, labels, 0.0) * (1 - self.smoothing) + self.smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=self.weights)
        return (losses * known).mean(1)

    def scores(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        """See `Objective`. The loss is not weighted; the AUC is the mean over the findings that have an AUC."""
        known = ~np.isnan(self.validation)
        p = np.where(self.validation == 1, probabilities, 1 - probabilities)[known]
        loss = -np.log(np.clip(p, np.finfo(np.float64).eps, 1)).mean() if known.any() else np.nan
        rankings = finding_rankings(self.validation, probabilities)
        return {"val_loss": float(loss), "val_roc_auc": float(np.nanmean(rankings)) if rankings.size else float("nan")}


def positive_weights(truth: NDArray[np.float64], highest: float) -> NDArray[np.float64]:
    """Return, for each finding, (images without it) / (images with it), at least 1 and at most ``highest``.

    The value is 1 for a finding that no image has.

    >>> positive_weights(np.array([[1, 1], [0, 1], [0, np.nan], [0, 0]]), 2.5)
    array([2.5, 1. ])
    """
    positives, negatives = (truth == 1).sum(0), (truth == 0).sum(0)
    ratio = np.divide(negatives, positives, out=np.ones(truth.shape[1]), where=positives > 0)
    return ratio.clip(1, highest)


def class_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Return the weight N_max / N_j of each class j, so that all classes count equally; 0 for an absent class.

    N_j is the number of ``labels`` that are j; N_max is the largest N_j.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).float()
    return torch.where(counts > 0, counts.max() / counts.clamp(min=1), 0.0)
