"""Select the findings of a job: those that can be learnt from the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cvrnet.data import Record
from cvrnet.data.finding_columns import odd_columns
from cvrnet.data.findings import AUTO, known_findings, label_findings, learnable_findings
from cvrnet.errors import UserError
from cvrnet.formatting import count
from cvrnet.runs.finding_predictions import FindingTable
from cvrnet.training import TrainConfig

MULTILABEL = {"task": FindingTable.task}  #: this part of run.json says that the model predicts findings


def with_findings(
    records: Sequence[Record], config: TrainConfig, classes: Sequence[str] | None, say: Callable[[str], object]
) -> tuple[list[Record], TrainConfig]:
    """Return the images with their findings as labels, and the config with the names of the findings.

    Raises:
        DataError: A cell of a finding is not 1, 0, -1 or empty, or a label contradicts itself (see `finding_truth`).
        UserError: The data set lacks a finding that the config names; or, for one of the findings, no image is known to
            have it, or no image is known to lack it.
    """
    if classes is not None:
        raise UserError("--classes is for images with one label; --findings A,B names and orders findings")
    names, truth, few = learnable_findings(records, config.findings, config.uncertain)
    if config.findings == (AUTO,) and {*names} <= {column for record in records for column in record.metadata}:
        for line in odd_columns(records).values():
            say(f"Warning: {line}")
    if few:
        say(f"Left out, because fewer than 5 patients have the finding, or fewer than 5 lack it: {', '.join(few)}")
    refuse_one_sided(truth, names, "no image")
    counts = ", ".join(f"{name} {int((column == 1).sum()):,}" for name, column in zip(names, truth.T, strict=True))
    say(f"Findings (number of images with the finding): {counts}")
    if unknown := int(np.isnan(truth).all(1).sum()):
        say(f"Not used for training or scores, because no finding is known: {count(unknown, 'image')}")
    return label_findings(records, names, truth), replace(config, findings=tuple(names))


def refuse_one_sided(truth: np.ndarray, names: Sequence[str], which: str) -> None:
    """Raise UserError for a finding that no image is known to have, or that no image is known to lack.

    ``truth`` (N, findings) is 1 (present), 0 (absent) or NaN (not known). ``which`` is the start of the message, such
    as ``no image``.
    """
    for name, column in zip(names, truth.T, strict=True):
        advice = f"leave {name} out of --findings (instead of --findings auto, list the other findings)"
        if np.isnan(column).all():
            raise UserError(f"{which} has a label for {name}; {advice}")
        for value, verb in ((1, "has"), (0, "is known to lack")):
            if not (column == value).any():
                raise UserError(f"{which} {verb} {name}; {advice}")


def refuse_missing_findings(records: Sequence[Record], names: Sequence[str]) -> None:
    """Raise UserError for a finding that no training image has, or that no training image lacks."""
    refuse_one_sided(known_findings(records), names, "no training image")
