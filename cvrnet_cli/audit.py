"""``cvrnet audit``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say, tell


@click.command(short_help="Check a data set for copies, shared patients, tied sources and shortcuts.")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("Folder for audit.json, audit.html and tables as CSV.")
@options.findings
@click.option(
    "--outcome",
    help="The label is an event that is to be foretold: its column (see cvrnet train); films from after it are named.",
)
@click.option("--model", help="A trained model to audit on DATA: run, fold, local-dir:FOLDER or hf-hub:user/repo.")
@options.device
@options.style
@options.seed
@click.option("--workers", type=click.IntRange(1), default=2, help="Number of threads that read images.")
@options.any_body_part
@click.option(
    "--features/--no-features",
    default=True,
    help="Compute features with ImageNet weights (extra lite), to find wrong labels and pictures of other things.",
)
@options.lungs
@options.overwrite
def audit(
    data: Path,
    output: Path | None,
    findings: tuple[str, ...] | None,
    uncertain: str | None,
    outcome: str | None,
    model: str | None,
    device: str,
    style: str,
    overwrite: bool,
    lungs: str | None,
    lungs_margin: float | None,
    segmenter: str | None,
    **settings: Any,
) -> None:
    """Find what makes a model look better on DATA than it is, before any training.

    DATA is a folder with one sub-folder for each class, or a CSV manifest; many findings need its columns source and
    patient_id. The audit reports classes tied to sources, shared patients, exact and near-duplicates, and how well
    simple models predict label and source from features that should not matter, such as the image's border. It names
    images whose label is probably wrong, and pictures that are probably blank, badly exposed, turned, inverted or not
    of a chest. The exit status is 1 if a finding is severe.

    If an image may have several findings (--findings; labels such as Edema|Effusion are recognised without it), each of
    them is checked by itself, and the audit tells which practically always come together.

    With --model it also reports the model's confidence and errors for each source and, where DATA has lung masks, its
    scores on images in which the lungs are hidden or only the lungs are shown. If the model is a run, each image is
    given only to folds that were not trained on its patient.

    With --lungs the images are masked with the lungs, or cropped to them, before they are measured: what is left of the
    shortcuts?

    \b
    Examples:
      cvrnet audit manifest.csv -o audit
      cvrnet audit DATA --format jsonl
      cvrnet audit manifest.csv --model run -o audit
      cvrnet audit manifest.csv --outcome icu_day
      cvrnet audit manifest.csv --lungs crop --segmenter masks -o audit
    """
    if segmenter and not lungs:
        raise click.UsageError("--segmenter goes with --lungs")
    import cvrnet.audit as room
    from cvrnet.audit.findings import COLUMNS
    from cvrnet.folders import files_aside
    from cvrnet.runs.layout import AUDIT

    earlier = output is not None and room.check_audit_folder(output, overwrite)
    settings["uncertain"] = uncertain or "ignore"
    records, problems, names, settings["course"] = _read(data, outcome, findings or (), settings["uncertain"])
    examination = room.Examination.from_pretrained(model, records, device) if model else None
    if lungs:
        from cvrnet.lungs.attach import make_finder

        settings["finder"] = make_finder(records, lungs, lungs_margin, segmenter, None)
    with progress_bar("Reading") as progress:
        found = room.audit(records, problems, names=names, examination=examination, progress=progress, **settings)
    if style == "csv":
        print_rows([finding.row() for finding in found], COLUMNS, style)
    elif style in ("json", "jsonl"):
        print_rows([asdict(finding) for finding in found], [*COLUMNS, "figures"], style)
    else:
        for finding in found:
            tell(f"{finding.severity:<8} {finding.sentence}")
            if finding.advice and finding.severity != "note":
                tell(f"{'':<8} -> {finding.advice}")
    if lungs and (whole := len(settings["finder"].whole)):
        say(f"--lungs {lungs}: {whole} of {len(records)} pictures were used whole: they have no usable lung mask")
    if output is not None:
        with files_aside(output, lambda name: earlier, AUDIT) as aside:
            room.write_audit(aside, found, records, Path(data).resolve().name, names=names)
        say(f"\naudit.html, audit.json and the tables are in {output}")
    if any(finding.severity == "severe" for finding in found):
        sys.exit(1)


def _read(data: Path, outcome: str | None, findings: tuple[str, ...], uncertain: str) -> tuple[Any, Any, Any, Any]:
    """The records, problems, names of findings and what is known of the outcome, for `cvrnet.audit.audit`."""
    import cvrnet.audit as room

    if not outcome:
        return *room.read_audited(data, say, findings, uncertain), None
    if findings:
        raise click.UsageError("--outcome excludes --findings")
    records, problems, course = room.read_outcome_audited(data, outcome, say)
    return records, problems, (), course
