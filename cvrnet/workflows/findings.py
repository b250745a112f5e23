"""The findings of a job: which of them can be learnt from the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cvrnet.data import Record
from cvrnet.data.finding_columns import odd_columns
from cvrnet.data.findings import AUTO, known_findings, label_findings, learnable_findings
from cvrnet.errors import UserError
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.training import TrainConfig

MULTILABEL = {"task": FindingTable.task}  #: in run.json


def with_findings(
    records: Sequence[Record], config: TrainConfig, classes: Sequence[str] | None, say: Callable[[str], object]
) -> tuple[list[Record], TrainConfig]:
    """The images with their findings as labels, and the config with the names of the findings.

    Raises:
        DataError: A cell of a finding has a value that is not known.
        UserError: The data set has no such findings, or no image has one of them, or none lacks it.
    """
    if classes is not None:
        raise UserError("--classes orders the classes of single labels; --findings A,B names and orders findings")
    names, truth, few = learnable_findings(records, config.findings, config.uncertain)
    if config.findings == (AUTO,) and {*names} <= {column for record in records for column in record.metadata}:
        for line in odd_columns(records).values():
            say(f"Warning: {line}")
    if few:
        say(f"Left out, because fewer than 5 patients have it or lack it: {', '.join(few)}")
    refuse_one_sided(truth, names, "no image")
    counts = ", ".join(f"{name} {int((column == 1).sum()):,}" for name, column in zip(names, truth.T, strict=True))
    say(f"Findings (images that have it): {counts}")
    if unknown := int(np.isnan(truth).all(1).sum()):
        say(f"{unknown:,} images are not used for training or scores: none of their findings is known")
    return label_findings(records, names, truth), replace(config, findings=tuple(names))


def refuse_one_sided(truth: np.ndarray, names: Sequence[str], which: str) -> None:
    """UserError if one of the findings is present in none of the images, or in all that are known."""
    for name, column in zip(names, truth.T, strict=True):
        if np.isnan(column).all():
            raise UserError(f"{name} is known of {which}; leave this finding out (--findings names those to learn)")
        for value, verb in ((1, "has"), (0, "is known to lack")):
            if not (column == value).any():
                raise UserError(f"{which} {verb} {name}; leave this finding out (--findings names those to learn)")


def refuse_missing_findings(records: Sequence[Record], names: Sequence[str]) -> None:
    """UserError if the training images do not show a finding, or do not show how images without it look."""
    refuse_one_sided(known_findings(records), names, "no training image")
