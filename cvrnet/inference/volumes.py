"""Average the predictions for the slices of a CT: one mean for each series, and one mean for the patient."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cvrnet.data.series import Slice
from cvrnet.inference.prediction import Prediction, label_of


class Answer(NamedTuple):
    """The prediction for one image or slice, or the mean prediction for a series or patient."""

    unit: str  #: ``image``, ``slice``, ``series`` or ``patient``
    patient: str  #: the patient's pseudonym; ``""`` where it is not known
    prediction: Prediction

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return a table row: the columns of :meth:`Prediction.row`, and ``unit`` and ``patient_id``."""
        return {**self.prediction.row(classes), "unit": self.unit, "patient_id": self.patient}


def add_means(pairs: Iterable[tuple[Slice, Prediction]], classes: Sequence[str], task: str) -> Iterator[Answer]:
    """Yield the prediction for each image; after the slices of a patient, also yield the mean predictions.

    There is one mean for each series, if the patient has several series, and one mean over all slices of the patient.

    The images must be in the order of `cvrnet.data.series.arrange`.
    """
    for (_, volume), group in itertools.groupby(pairs, lambda pair: (pair[0].key[0], pair[0].volume is not None)):
        if not volume:
            yield from (Answer("image", slice_.patient, prediction) for slice_, prediction in group)
            continue
        slices = []
        for slice_, prediction in group:
            slices.append((slice_, prediction))
            yield Answer("slice", slice_.patient, prediction)
        patient = slices[0][0].patient
        series = [list(each) for _, each in itertools.groupby(slices, lambda pair: pair[0].key)]
        if len(series) > 1:
            yield from (Answer("series", patient, _mean(each, classes, task)) for each in series)
        yield Answer("patient", patient, _mean(slices, classes, task))


def _mean(pairs: Sequence[tuple[Slice, Prediction]], classes: Sequence[str], task: str) -> Prediction:
    """Return the mean over the readable slices; its path is that of the volume, or the common folder of several."""
    path = Path(os.path.commonpath({str(slice_.volume) for slice_, _ in pairs}))
    read = [prediction for _, prediction in pairs if not prediction.error]
    if not read:
        return replace(pairs[0][1], path=path, error=f"{path}: no slice could be read")
    probabilities = np.mean([prediction.probabilities for prediction in read], axis=0)
    heads = [prediction.heads for prediction in read if prediction.heads is not None]
    # Entropies stay NaN: they are defined only for one image.
    label = label_of(probabilities, classes, task)
    return Prediction(path, label, probabilities, np.mean(heads, axis=0) if heads else None)
