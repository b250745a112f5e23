"""``cvrnet evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows
from cvrnet_cli.train import SCORE_COLUMNS, score_rows


@click.command(short_help="Score a trained model on labelled radiographs.")
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@options.output_folder(required=True, help_text="metrics.json, predictions.csv and figures/ go here.")
@options.batch_size
@options.device
@options.amp
@options.overwrite
def evaluate(
    model: str,
    data: Path,
    output: Path,
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
) -> None:
    """Score MODEL on DATA.

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER or hf-hub:user/repo[@rev].
    DATA is a folder with one sub-folder a class, or a CSV manifest. Classes are matched by name: DATA may lack some
    of the model's, but have no others. Images that cannot be read are named, the others scored; exit status 1.

    \b
    Examples:
      cvrnet evaluate run other-hospital/ -o evaluation
      cvrnet evaluate run/fold-3 manifest.csv -o fold-3-elsewhere
    """
    from cvrnet.data import DataError, scan_records
    from cvrnet.evaluation import METRICS, check_classes, predict_records, write_evaluation
    from cvrnet.inference import Predictor

    if (output / METRICS).exists() and not overwrite:
        raise click.ClickException(f"{output / METRICS} exists; --overwrite replaces it")
    records, problems = scan_records(data, min_classes=1)
    if problems:
        raise DataError(problems, data)
    predictor = Predictor.from_pretrained(model, device=device or "auto", dtype=amp or "auto")
    check_classes(records, predictor.classes)
    with progress_bar("Predicting") as progress:
        answers = predict_records(predictor, records, batch_size=batch_size or 8, progress=progress)
    if not answers.records:
        raise DataError(answers.problems, data)
    metrics = write_evaluation(output, {"test": answers}, predictor.classes)
    write_rows(score_rows(metrics), SCORE_COLUMNS, "table", sys.stdout)
    say(f"\nmetrics.json, predictions.csv and figures are in {output}")
    if answers.problems:
        raise DataError([f"{len(answers.problems)} of {len(records)} images were left out", *answers.problems], data)
