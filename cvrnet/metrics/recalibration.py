"""Recalibration on the images of another hospital: one temperature for all classes, and a bias for each class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvrnet.errors import UserError
from cvrnet.metrics.bootstrap import group_numbers
from cvrnet.metrics.inputs import check
from cvrnet.task import log_softmax

MIN_PATIENTS = 5  # with fewer patients of a class, or of all other classes together, the bias of the class stays 0
MIN_IMAGES = 20  # with fewer images, nothing is fitted
MAX_BIAS = 1000  # largest scale or bias that is accepted from a file; fitted values are below 150
MAX_STEPS, TOLERANCE = 10_000, 1e-9  # limits of the expectation maximisation
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Recalibration:
    r"""Changes the probabilities p of a model or an ensemble to :math:`\mathrm{softmax}(a \log p + b)`.

    Here a is ``scale``, and b is ``bias``. For a CVR-Net, p is the mean over its heads; for an ensemble, p is the mean
    over the heads and the folds.
    """

    scale: float  #: a, the inverse of the temperature; 1: no change
    bias: tuple[float, ...]  #: b, (C,); 0: no change

    def __call__(self, probabilities: ArrayLike) -> Table:
        """Return the recalibrated probabilities for a model's probabilities, both (..., C)."""
        return np.exp(log_softmax(self.scale * _logs(probabilities) + np.array(self.bias)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: Sequence[str]) -> Recalibration:
        """Make a recalibration from the values in an untrusted file; raise ValueError if the values are impossible."""
        scale: Any = values.get("scale")
        bias: Any = values.get("bias")
        if {*values} != {"scale", "bias"} or not isinstance(bias, list | tuple) or len(bias) != len(classes):
            raise ValueError("its calibration has an unexpected form; expected scale, and a bias for each class")
        if not all(type(v) in (int, float) and abs(v) <= MAX_BIAS for v in (scale, *bias)) or not scale > 0:
            raise ValueError(
                f"its calibration has impossible numbers; expected a scale above 0, and biases from -{MAX_BIAS} "
                f"to {MAX_BIAS}"
            )
        return cls(float(scale), tuple(map(float, bias)))


def free_biases(labels: Sequence[int], groups: Sequence[Hashable], n_classes: int) -> list[int]:
    """Return the indices of the classes whose bias can be fitted.

    The bias of a class can be fitted if at least `MIN_PATIENTS` patients have images of the class, and at least
    `MIN_PATIENTS` patients have images of other classes.

    >>> free_biases([0] * 6 + [1] * 5 + [2], range(12), 3)
    [0, 1]
    """
    patients, truth = group_numbers(groups, len(labels)), np.asarray(labels)
    return [
        k for k in range(n_classes) if min(len({*patients[truth == k]}), len({*patients[truth != k]})) >= MIN_PATIENTS
    ]


def fit_recalibration(y_true: ArrayLike, probabilities: ArrayLike, groups: Sequence[Hashable]) -> Recalibration:
    """Fit the scale (1 / temperature) and the biases of a `Recalibration` on labelled images.

    This is temperature scaling (Guo et al. 2017, ICML) with a bias for each class. It minimises the log loss, in which
    each patient counts once, plus half the square of log(scale) and of each bias. These squares are the penalty of a
    standard normal prior. The penalty keeps scale and biases finite with few images, and has less weight with more
    patients. The fit starts from "no change", so the log loss on these images cannot rise.

    Args:
        y_true: Class indices, (N,).
        probabilities: Probabilities of the classes, (N, C).
        groups: The patient of each image.

    Raises:
        UserError: All images are of one class.
    """
    from scipy.optimize import minimize  # here, because predictions need no SciPy

    logs = _logs(probabilities)
    names = [str(k) for k in range(logs.shape[1])]
    labels, _ = check(y_true, np.exp(logs), names)
    if len({*labels.tolist()}) < 2:
        raise UserError("all images are of one class; temperature and biases need images of two or more classes")
    _, inverse, counts = np.unique(group_numbers(groups, len(labels)), return_inverse=True, return_counts=True)
    weights, free = 1 / counts[inverse], free_biases(labels.tolist(), groups, len(names))
    one_hot = np.eye(len(names))[labels]

    def loss(values: Table) -> tuple[float, Table]:
        scale, bias = np.exp(values[0]), np.zeros(len(names))
        bias[free] = values[1:]
        new = log_softmax(scale * logs + bias)
        total = -(weights * new[np.arange(len(labels)), labels]).sum() + values @ values / 2
        slope = weights[:, None] * (np.exp(new) - one_hot)  # derivative with respect to the new logits
        gradient = np.concatenate([[scale * (slope * logs).sum()], slope.sum(0)[free]])
        return float(total), gradient + values

    bounds, options = [(-5, 5)] * (1 + len(free)), {"ftol": 1e-12, "gtol": 1e-6}
    found = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    bias = np.zeros(len(names))
    bias[free] = found.x[1:]
    if len(free) == len(names):
        bias -= bias.mean()  # a constant in all biases changes no probability; the fit would remove it only slowly
    return Recalibration(float(np.exp(found.x[0])), tuple(bias.tolist()))


def fit_prior(probabilities: ArrayLike, trained: Sequence[float]) -> tuple[Recalibration, list[float]]:
    r"""Estimate the shares of the classes among unlabelled images, by expectation maximisation.

    The method is that of Saerens, Latinne & Decaestecker 2002 (Neural Computation 14:21, eq. 2.4). The probabilities
    of class c are multiplied by :math:`\pi_c / \pi^0_c` and normalised; their mean over all images is the next
    :math:`\pi_c`. Here :math:`\pi_c` is the estimated share of class c, and :math:`\pi^0_c` its share in ``trained``.
    The estimate is valid under two conditions: compared with the training data, only the shares of the classes are
    different, not the appearance of each class; and the probabilities are calibrated on data like the training data.

    Args:
        probabilities: Probabilities of the classes, (N, C).
        trained: Each class's share of the training images, multiplied by the class's weight in the loss, (C,). If
            training weighted each class inversely to its number of images, all shares are equal.

    Returns:
        The `Recalibration`, with scale 1 and a bias for each class; and the estimated shares, (C,).
    """
    odds = np.exp(_logs(probabilities)) / np.asarray(trained)
    prior = np.asarray(trained, np.float64)
    for _ in range(MAX_STEPS):
        weighted = odds * prior
        after = (weighted / weighted.sum(-1, keepdims=True)).mean(0)
        moved, prior = np.abs(after - prior).max(), after
        if moved < TOLERANCE:
            break
    bias = np.log(np.maximum(prior, 1e-6)) - np.log(trained)
    return Recalibration(1.0, tuple((bias - bias.mean()).tolist())), prior.tolist()


def _logs(probabilities: ArrayLike) -> Table:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30))
