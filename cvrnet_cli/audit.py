"""``cvrnet audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows


@click.command(short_help="What can a data set show? Sources, patients, copies and shortcuts.")
@click.argument("data", type=click.Path(path_type=Path))
@options.output_folder(required=False, help_text="audit.json, audit.html and tables as CSV go here.")
@click.option("--model", help="A trained model to ask about DATA: run, fold, local-dir:FOLDER or hf-hub:user/repo.")
@options.device
@options.style
@options.seed
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Threads that read images.")
@options.overwrite
def audit(
    data: Path,
    output: Path | None,
    model: str | None,
    device: str | None,
    style: str | None,
    seed: int | None,
    workers: int,
    overwrite: bool,
) -> None:
    """Find what makes a model look better on DATA than it is, before any training.

    DATA is a folder with one sub-folder a class, or a CSV manifest (columns source and patient_id tell most). Reports
    classes tied to sources, shared patients, exact and near-duplicates, and how well simple models tell label and
    source from what should not matter. Exit status 1 if a finding is severe.

    With --model also how sure and how wrong the model is on each source, and, where DATA has lung masks, what it says
    without the lungs and with nothing but the lungs. Of a run only those of its models are asked about an image that
    were not trained on its patient.

    \b
    Examples:
      cvrnet audit manifest.csv -o audit
      cvrnet audit DATA --format jsonl
      cvrnet audit manifest.csv --model run -o audit
    """
    from cvrnet.audit import audit as run
    from cvrnet.audit import read_audited, write_audit
    from cvrnet.audit.findings import COLUMNS
    from cvrnet.audit.output import AUDIT

    if output is not None and (output / AUDIT).exists() and not overwrite:
        raise click.ClickException(f"{output / AUDIT} exists; --overwrite replaces it")
    records, problems = read_audited(data)
    examination = _examination(model, device, records) if model else None
    with progress_bar("Reading") as progress:
        findings = run(records, problems, seed=seed or 0, workers=workers, examination=examination, progress=progress)
    if style in (None, "table"):
        for finding in findings:
            click.echo(f"{finding.severity:<8} {finding.sentence}")
            if finding.advice and finding.severity != "note":
                click.echo(f"{'':<8} -> {finding.advice}")
    else:
        rows = ({**finding.row(), "figures": finding.figures, "files": list(finding.files)} for finding in findings)
        if style == "csv":
            write_rows((finding.row() for finding in findings), COLUMNS, style, sys.stdout)
        else:
            write_rows(rows, [*COLUMNS, "figures"], style, sys.stdout)
    if output is not None:
        write_audit(output, findings, records, data.resolve().name)
        say(f"\naudit.html, audit.json and tables are in {output}")
    if any(finding.severity == "severe" for finding in findings):
        sys.exit(1)


def _examination(model: str, device: str | None, records: list[Any]) -> Any:
    """The models of a run, each for the images that it was not trained on."""
    from cvrnet.audit import Examination
    from cvrnet.inference import Predictor
    from cvrnet.runs.held_out import held_out

    asked = held_out(model, records)
    predictors = [Predictor.from_pretrained(one, device=device or "auto") for one in asked.models or [model]]
    return Examination(predictors, asked.models_for_image, asked.known)
