"""``cvrnet audit``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say, tell


@click.command(
    short_help="Check a data set: duplicates, patients in several splits, classes associated with sources, shortcuts."
)
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("Folder for audit.json, audit.html and tables as CSV.")
@options.findings
@click.option(
    "--outcome",
    help="Column of an event that is predicted instead of the label (see cvrnet train). The audit also names "
    "radiographs that were taken on the day of the event or later.",
)
@click.option(
    "--model", help="Trained model to audit on DATA: run folder, fold folder, local-dir:FOLDER or hf-hub:user/repo."
)
@options.device
@options.style
@options.seed
@click.option("--workers", type=click.IntRange(1), default=2, help="Number of threads that read images.")
@options.any_body_part
@click.option(
    "--features/--no-features",
    default=True,
    help="Compute features with a network that has ImageNet weights (cvrnet[lite]), to find wrong labels and images "
    "without a chest.",
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
    """Before any training, find problems of DATA that would make a model look better than it is.

    DATA is a folder with one sub-folder for each class, or a CSV manifest; many checks need the manifest's columns
    source and patient_id. The audit reports classes that are associated with sources; patients whose images differ in
    split, source or label; exact duplicates and near-duplicates; and how well simple models predict label and source
    from features that should not matter, such as the image's border. It names images whose label is probably wrong,
    and images that are probably blank, badly exposed, turned, inverted or not of a chest. The exit status is 1 if a
    problem is severe.

    If an image may have several findings (--findings; not needed for labels such as Edema|Effusion), each finding is
    checked separately, and the audit reports findings that nearly always occur together.

    With --model, the audit also reports the model's confidence and errors for each source. If DATA has lung masks, the
    audit reports the model's scores on images in which the lungs are hidden, or only the lungs are shown. If the model
    is a run, each image is predicted only by the folds that were not trained on images of the same patient.

    With --lungs, the images are first made black outside the lungs, or cropped to the lungs, and then measured. This
    shows which shortcuts remain. --lungs cannot be used with --model.

    \b
    Examples:
      cvrnet audit manifest.csv -o audit
      cvrnet audit DATA --format jsonl
      cvrnet audit manifest.csv --model run -o audit
      cvrnet audit manifest.csv --outcome icu_day
      cvrnet audit manifest.csv --lungs crop --segmenter masks -o audit
    """
    if segmenter and not lungs:
        raise click.UsageError("--segmenter needs --lungs")
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
        from cvrnet.data.lung_finder import whole_sentence

        say(whole_sentence(whole, len(records), f"--lungs {lungs}"))
    if output is not None:
        with files_aside(output, lambda name: earlier, AUDIT) as aside:
            room.write_audit(aside, found, records, Path(data).resolve().name, names=names)
        say(f"\naudit.html, audit.json and the tables are in {output}")
    if any(finding.severity == "severe" for finding in found):
        sys.exit(1)


def _read(data: Path, outcome: str | None, findings: tuple[str, ...], uncertain: str) -> tuple[Any, Any, Any, Any]:
    """Return the images' records, a line for each unusable row, the names of findings, and the patients' events.

    There are no events (None) without ``outcome``, and no names of findings if each image has one label.
    """
    import cvrnet.audit as room

    if not outcome:
        return *room.read_audited(data, say, findings, uncertain), None
    if findings:
        raise click.UsageError("--outcome cannot be used with --findings")
    records, problems, course = room.read_outcome_audited(data, outcome, say)
    return records, problems, (), course
