"""``cvrnet evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, score_rows, write_rows
from cvrnet_cli.progress import job_callbacks

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
@options.reported
def evaluate(
    model: str,
    data: Path,
    output: Path,
    folds: list[int],
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
    audit: bool,
    maps: bool,
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
      cvrnet evaluate run manifest.csv --fold 1,3 -o two-folds
    """
    from cvrnet.data import DataError
    from cvrnet.workflows.evaluate import evaluate as run

    with job_callbacks() as callbacks:
        result = run(
            model,
            data,
            output,
            folds=folds,
            batch_size=batch_size or 8,
            device=device or "auto",
            amp=amp or "auto",
            audit=audit,
            maps=maps,
            overwrite=overwrite,
            callbacks=callbacks,
        )
    metrics, left_out = result["metrics"], result["left_out"]
    rows = [row | {key: metrics[row["set"]]["weighted"][key] for key in PAPERS} for row in score_rows(metrics)]
    write_rows(rows, COLUMNS, "table", sys.stdout)
    say(f"\nThe report is {output / 'report.html'}; metrics.json, predictions.csv and figures are beside it.")
    if left_out:
        total = sum(result["images"].values()) + len(left_out)
        raise DataError([f"{len(left_out)} of {total} images were left out", *left_out], data)
