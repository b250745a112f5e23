"""Write the pages of a job: audit.html about its data set, and report.html."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cvrnet.data import Record
from cvrnet.data.data_set import DataPath
from cvrnet.files import atomic_write
from cvrnet.inference import Predictor
from cvrnet.report import Section, write_report
from cvrnet.runs.layout import AUDIT, AUDIT_PAGE, AUDIT_TABLES
from cvrnet.runs.read import read_run
from cvrnet.workflows.callbacks import Callbacks


def audit_run(
    folder: Path,
    data: DataPath,
    records: Sequence[Record],
    callbacks: Callbacks,
    any_body_part: bool = False,
    output: Path | None = None,
    names: Sequence[str] = (),
    uncertain: str = "ignore",
) -> None:
    """Audit the data once, save the audit's results in the run, and tell the user the severe problems.

    ``output`` is the final path of ``folder``. ``names`` and ``uncertain`` are arguments of `audit`.

    If the run already has an audit of the same data, that audit is read, and no new one is made. Without the packages
    of the extra ``audit``, there is no audit, and a message says so.
    """
    try:
        from cvrnet.audit import audit, read_severe, write_audit
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("cleanlab", "cv2", "scipy", "sklearn"):
            raise
        callbacks.say(f'The data set is not audited, because {package} is missing; pip install "cvrnet[audit]"')
        return
    severe = read_severe(folder, records)
    if severe is None:
        callbacks.say("Auditing the data set (--no-audit skips this)")
        settings: Any = {"names": names, "uncertain": uncertain, "any_body_part": any_body_part}
        findings = audit(records, **settings, progress=callbacks.stage("Auditing"))
        write_audit(folder, findings, records, Path(data).resolve().name, folder / AUDIT_TABLES, names)
        severe = [finding.sentence for finding in findings if finding.severity == "severe"]
    for sentence in severe:
        callbacks.say(f"severe: {sentence}")
    if severe:
        page = (output or folder) / AUDIT_PAGE
        callbacks.say(f"{page} says what to do about {'this problem' if len(severe) == 1 else 'these problems'}")


def share_audit(sweep: Path, run: Path) -> None:
    """Copy the audit of a benchmark or a leave-one-source-out job, if there is one, to one of its runs."""
    for name in (AUDIT_PAGE, AUDIT):
        if (sweep / name).is_file():
            with atomic_write(run / name) as temporary:
                shutil.copyfile(sweep / name, temporary)


def finish_report(
    output: str | Path, maps: bool = True, predictor: Predictor | None = None, further: Sequence[Section] = ()
) -> Path:
    """Write the whole report of a run or an evaluation, also again; Grad-CAM maps only with ``maps``.

    ``predictor`` (default: the run's model) makes the maps. The sections in ``further`` come before the learning
    curves.

    Returns:
        The path of report.html.

    Raises:
        UserError: The folder holds no finished run, or a file of the run is damaged.
    """
    from cvrnet.report.bags import bag_sections
    from cvrnet.report.explanations import maps_section
    from cvrnet.report.operating_points import operating_points_section
    from cvrnet.report.outcome import outcome_section
    from cvrnet.report.results import read_results
    from cvrnet.report.selective import selective_section
    from cvrnet.report.source_probe import write_source_probe
    from cvrnet.report.subgroups import subgroups_section
    from cvrnet.report.unlike_training import unlike_training_section

    output = Path(output)
    if read_run(output).get("unit", "image") != "image":
        return write_report(output, [*bag_sections(read_results(output), maps, predictor), *further])
    problem = write_source_probe(output, predictor)
    results = read_results(output)
    sections = [
        outcome_section(results),
        Section("Source probe", f"<p>{escape(problem)}</p>") if problem else None,
        subgroups_section(results),
        operating_points_section(results),
        selective_section(results),
        unlike_training_section(results),
        maps_section(output, predictor) if maps else None,
        *further,
    ]
    return write_report(output, [section for section in sections if section is not None])
