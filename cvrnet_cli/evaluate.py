"""``cvrnet evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import auditing, options
from cvrnet_cli.output import progress_bar, say, write_rows
from cvrnet_cli.train import score_rows

PAPERS = ("recall", "precision", "f1")  # weighted by the classes' shares, as the papers' tables
COLUMNS = ("set", "images", *PAPERS, "accuracy", "balanced_accuracy", "f1_macro", "auc_macro")


@click.command(short_help="Score a trained model on labelled radiographs.")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@options.output_folder(required=True, help_text="report.html, metrics.json, predictions.csv and figures/ go here.")
@options.folds
@options.batch_size
@options.device
@options.amp
@options.overwrite
@auditing.no_audit
def evaluate(
    model: str,
    data: Path,
    output: Path,
    folds: list[int],
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
    no_audit: bool,
) -> None:
    """Score MODEL on DATA.

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or
    FILE.onnx. DATA is a folder with one sub-folder a class, or a CSV manifest. Classes are matched by name: DATA may
    lack some of the model's, but have no others. Images that cannot be read are named, the others scored; exit
    status 1.

    \b
    Examples:
      cvrnet evaluate run other-hospital/ -o evaluation
      cvrnet evaluate run/fold-3 manifest.csv -o fold-3-elsewhere
      cvrnet evaluate run manifest.csv --folds 1,3 -o two-folds
    """
    from cvrnet.data import DataError, check_classes, scan_records
    from cvrnet.files import write_json
    from cvrnet.inference import Predictor
    from cvrnet.report import write_report
    from cvrnet.report.explanations import maps_section
    from cvrnet.report.headline import NOT_NEW, seen_sentence
    from cvrnet.runs.layout import RUN
    from cvrnet.workflows.evaluate import describe_evaluation, open_evaluation, predict_records, write_evaluation

    open_evaluation(output, overwrite)
    records, problems = scan_records(data, min_classes=1)
    if problems:
        raise DataError(problems, data)
    predictor = Predictor.from_pretrained(model, device or "auto", amp or "auto", folds=folds)
    check_classes((r.label for r in records), predictor.classes)
    with progress_bar("Predicting") as progress:
        predictions = predict_records(predictor, records, batch_size=batch_size or 8, progress=progress)
    if not predictions.names:
        raise DataError(list(predictions.problems), data)
    run = describe_evaluation(model, predictor, data, records, predictions)
    write_json(output / RUN, run)
    metrics = write_evaluation(output, {"test": predictions})
    write_rows(_rows(metrics), COLUMNS, "table", sys.stdout)
    if run["seen_images"]:
        say(f"severe: {seen_sentence(run['seen_images'])} {NOT_NEW}")
    auditing.auditor(data, output, no_audit)()
    report = write_report(output, [maps_section(output, predictor)])
    say(f"\nThe report is {report}; metrics.json, predictions.csv and figures are beside it.")
    if predictions.problems:
        raise DataError(
            [f"{len(predictions.problems)} of {len(records)} images were left out", *predictions.problems], data
        )


def _rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row, scores in zip(score_rows(dict(metrics)), metrics.values(), strict=True):
        yield row | {key: scores["weighted"][key] for key in PAPERS}
