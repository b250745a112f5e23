"""The audit of a run's data set, beside the run: made once, its severe findings told each time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cvrnet_cli.output import progress_bar, say

TABLES = "audit"

no_audit = click.option("--no-audit", is_flag=True, help="Leave away the audit of DATA (see cvrnet audit).")


def auditor(data: Path, output: Path, no_audit: bool) -> Callable[[], None]:
    """A function that audits DATA into the run and tells the severe findings, the first time that it is called.

    To be called when the run's folder is there, so that what stands in its way has been refused; on any process of a
    distributed run. An audit of the same data that is in the run already is only read: a resumed run repeats nothing.
    """
    left = [] if no_audit or _is_secondary() else [data]

    def audit() -> None:
        while left:
            _audit_run(left.pop(), output)

    return audit


def before_training(progress: Any, data: Path, output: Path, no_audit: bool) -> Any:
    """A ``cvrnet.training.Progress`` that audits before the first epoch."""
    audit = auditor(data, output, no_audit)

    def start(*arguments: Any) -> None:
        audit()
        progress.start(*arguments)

    return replace(progress, start=start)


def _is_secondary() -> bool:
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"))


def _audit_run(data: Path, output: Path) -> None:
    try:
        from cvrnet.audit import audit, read_audited, read_severe, write_audit
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("cv2", "scipy", "sklearn"):
            raise
        say(f'The audit of the data set was left out: it needs {error.name}; pip install "cvrnet[audit]"')
        return
    records, problems = read_audited(data)
    severe = read_severe(output, records)
    if severe is None:
        say("Auditing the data set (--no-audit leaves this away)")
        with progress_bar("Auditing") as progress:
            findings = audit(records, problems, progress=progress)
        write_audit(output, findings, records, data.resolve().name, tables=output / TABLES)
        severe = [finding.sentence for finding in findings if finding.severity == "severe"]
    for sentence in severe:
        say(f"severe: {sentence}")
    if severe:
        say(f"What to do about {'it' if len(severe) == 1 else 'them'} is in {output / 'audit.html'}")
