"""Read which findings an image has, which it does not have, and which are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.finding_columns import CELLS, EXPECTED, UNCERTAIN_CELL, finding_columns, odd_columns, plain_cell
from cvrnet.data.finding_labels import (
    SEPARATOR,
    contradiction,
    is_no_finding,
    join_findings,
    split_findings,
)
from cvrnet.data.record import Record
from cvrnet.data.scan import DataError
from cvrnet.data.splits import patient_keys
from cvrnet.errors import UserError

AUTO = "auto"  #: instead of names: all findings that enough patients have and enough patients lack
UNCERTAIN = {"ignore": np.nan, "positive": 1.0, "negative": 0.0}
"""What a cell of -1 counts as (CheXpert's "uncertain"); NaN means not known."""
LEAST_PATIENTS = 5  # AUTO takes a finding if at least 5 patients have it and at least 5 lack it

Truth = NDArray[np.float64]
"""Whether each image has each finding, (N, C): 1, 0, or NaN where this is not known."""


def learnable_findings(
    records: Sequence[Record],
    wanted: Sequence[str] = (AUTO,),
    uncertain: str = "ignore",
    least: int = LEAST_PATIENTS,
) -> tuple[list[str], Truth, list[str]]:
    """Return the findings to learn, their `Truth` (see `finding_truth`), and the findings that ``auto`` leaves out.

    ``wanted`` contains the names of the findings, or only ``auto``. ``auto`` takes all findings that the labels name,
    in alphabetical order; if the labels name no finding, ``auto`` takes the columns of `finding_columns`. ``auto``
    leaves out a finding if fewer than ``least`` patients have it, or fewer than ``least`` lack it. ``uncertain`` is a
    key of `UNCERTAIN`.

    Raises:
        DataError: A cell is not 1, 0, -1 or empty, or a label has findings and ``No Finding``.
        UserError: The data set has no findings, or ``auto`` leaves all of them out; or a name in ``wanted`` is given
            twice, is ``No Finding``, or is not in the data set.
    """
    named = sorted({name for record in records for name in split_findings(record.label)})
    columns = {column for record in records for column in record.metadata}
    if list(wanted) != [AUTO]:
        if none := [name for name in wanted if is_no_finding(name)]:
            raise UserError(
                f"{none[0]} is not a finding, but means that there are no findings: leave it out of --findings"
            )
        if len({*wanted}) < len(wanted):
            raise UserError(f"findings {', '.join(wanted)}: each must be given once")
        if unknown := [name for name in wanted if name not in columns and name not in named]:
            there = ", ".join(named or finding_columns(records)) or "none"
            raise UserError(f"no finding {unknown[0]!r} in the data set; it has {there}")
        return list(wanted), finding_truth(records, wanted, uncertain), []
    found = named or finding_columns(records)
    if not found:
        if odd := odd_columns(records):
            more = f" (and {len(odd) - 1} more such columns)" if len(odd) > 1 else ""
            raise UserError(f"the data set has no findings: {next(iter(odd.values()))}{more}")
        raise UserError(
            f"the data set has no findings: expected labels such as Edema{SEPARATOR}Effusion, or a column with 1 and 0 "
            "for each finding"
        )
    truth, patients = finding_truth(records, found, uncertain), np.array(patient_keys(records))
    enough = [min(len({*patients[column == value]}) for value in (0, 1)) >= least for column in truth.T]
    if not any(enough):
        raise UserError(
            f"no finding is known to be present in at least {least} patients and absent in at least {least}"
        )
    few = [name for name, take in zip(found, enough, strict=True) if not take]
    few += [] if named else [name for name in finding_columns(records, "0") if name not in found]
    return [name for name in found if name not in few], truth[:, enough], few


def finding_truth(records: Sequence[Record], names: Sequence[str], uncertain: str = "ignore") -> Truth:
    """Return whether each image has each finding, (N, C), from the finding's column or, without a column, the label.

    A cell is 1, 0, -1 (uncertain) or empty (not known). If an image has a 1 in the column ``No Finding`` (in any
    spelling that `is_no_finding` accepts), its empty cells count as 0. If an image has no label, findings without a
    column are not known.

    Args:
        records: N images.
        names: C findings.
        uncertain: A key of `UNCERTAIN`.

    Raises:
        DataError: A cell is not 1, 0, -1 or empty, or a label has findings and ``No Finding``.
    """
    cells = {**CELLS, UNCERTAIN_CELL: UNCERTAIN[uncertain]}
    columns = {column for record in records for column in record.metadata}
    none = [column for column in columns if is_no_finding(column)]
    truth, problems = np.full((len(records), len(names)), np.nan), []
    for i, record in enumerate(records):
        parts = split_findings(record.label)
        if reason := contradiction(record.label):
            problems.append(record.problem(reason))
        nothing = any(plain_cell(record.metadata.get(column, "")) == "1" for column in none)
        for k, name in enumerate(names):
            if name not in columns:
                truth[i, k] = float(name in parts) if record.label else np.nan
                continue
            given = record.metadata.get(name, "").strip()
            if (cell := plain_cell(given)) not in cells:
                problems.append(record.problem(f"{name} is {given!r:.40}; {EXPECTED}"))
            truth[i, k] = 0.0 if nothing and not cell else cells.get(cell, np.nan)
    if problems:
        raise DataError(problems, records[0].path.parent)
    return truth


def label_findings(records: Sequence[Record], names: Sequence[str], truth: Truth) -> list[Record]:
    """Return the images, each with its row of ``truth``, and with the names of its findings as its label.

    If all findings of an image are unknown, its label is ``""``.
    """
    labelled = []
    for record, row in zip(records, truth.tolist(), strict=True):
        findings = tuple(None if np.isnan(value) else value for value in row)
        label = join_findings([name for name, value in zip(names, row, strict=True) if value == 1])
        known = any(value is not None for value in findings)
        labelled.append(replace(record, label=label if known else "", findings=findings))
    return labelled


def known_findings(records: Sequence[Record]) -> Truth:
    """Return whether each image from `label_findings` has each finding, (N, C): 1, 0, or NaN if not known."""
    return np.array([record.findings for record in records], dtype=np.float64)


def several_findings_in(records: Sequence[Record]) -> bool:
    """Return whether any label names several findings; if no image has a label, whether there are `finding_columns`."""
    if any(record.label for record in records):
        return any(SEPARATOR in record.label for record in records)
    return bool(finding_columns(records))
