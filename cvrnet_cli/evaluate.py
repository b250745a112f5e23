"""``cvrnet evaluate``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, print_scores, say

# The first three scores are weighted by support, as in the papers' tables.
COLUMNS = ("recall", "precision", "f1", "accuracy", "balanced_accuracy", "f1_macro", "auc_macro")

PAIRED = ("model", "score", "class", "one", "other", "difference", "low", "high", "p", "p_holm")


@click.command(short_help="Score trained models on labelled radiographs.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("Folder for report.html, metrics.json, predictions.csv and figures/.", required=True)
@click.option(
    "--prevalence",
    "prevalences",
    type=options.FRACTION,
    multiple=True,
    help="Prevalence for which the report gives PPV and NPV of each operating point; may be repeated.",
)
@options.backend
@options.inference
@options.reported
def evaluate(models: tuple[str, ...], data: Path, output: Path, **settings: Any) -> None:
    """Score MODEL on DATA; if there are several models, each one is compared with the first, on the same images.

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or
    FILE.onnx. DATA is a folder with one sub-folder for each class, or a CSV manifest. Classes are matched by name: DATA
    may lack some of the model's classes, but may not have other classes. Images that cannot be read are named and left
    out, and the exit status is then 1.

    \b
    Examples:
      cvrnet evaluate run other-hospital/ -o evaluation
      cvrnet evaluate run/fold-3 manifest.csv -o fold-3-elsewhere
      cvrnet evaluate run other-hospital/ -o evaluation --prevalence 0.02 --prevalence 0.2
      cvrnet evaluate run baseline manifest.csv -o comparison
      cvrnet evaluate run manifest.csv --fold 1,3 -o two-folds
    """
    from cvrnet.data import DataError
    from cvrnet.workflows import compare
    from cvrnet.workflows import evaluate as run

    if len(models) > 1:
        with job_callbacks() as callbacks:
            rows = compare(models, data, output, callbacks=callbacks, **settings)["paired"]
        print_rows([{key: row[key] for key in PAIRED} for row in rows])
        say(f"\nThe report is {output / 'report.html'}; the evaluation of each model is beside it.")
        return
    with job_callbacks() as callbacks:
        result = run(models[0], data, output, callbacks=callbacks, **settings)
    print_scores(result["metrics"], COLUMNS)
    say(f"\nThe report is {output / 'report.html'}; metrics.json, predictions.csv and figures are beside it.")
    if left_out := result["left_out"]:
        total = sum(result["images"].values()) + len(left_out)
        raise DataError([f"{len(left_out)} of {total} images were left out", *left_out], data)
