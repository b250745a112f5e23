"""``cvrnet train``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_scores, say


@click.command(short_help="Fine-tune a model on a folder or CSV of radiographs.")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("Folder of the run: model, metrics, predictions, figures and report.", required=True)
@options.test_source
@options.job
@options.training
def train(data: Path, output: Path, **settings: Any) -> None:
    """Fine-tune a model on DATA and evaluate its best epoch.

    DATA is a folder with one sub-folder for each class, or a CSV manifest with the columns path and label and, if
    known, source, patient_id and split. All images of a patient are in the same set: training, validation or test.

    \b
    Examples:
      cvrnet train images/ -o run
      cvrnet train manifest.csv -o run --test-source figure1 --epochs 50
      cvrnet train manifest.csv -o run --model cvrnet_tiny --img-size 96 --no-pretrained
      cvrnet train manifest.csv -o baseline --model densenet121
      accelerate launch --multi_gpu --num_processes 2 -m cvrnet train manifest.csv -o run   (also on CPUs)
    """
    from cvrnet.workflows import train as run

    config, job = options.training_config(settings)
    with job_callbacks(config) as callbacks:
        metrics = run(data, output, config, callbacks=callbacks, **job)
    if metrics:  # only the main process of a distributed run has metrics
        print_scores(metrics)
        say(f"\nThe report is {output / 'report.html'}; the model and its results are beside it.")
        say(f"Next:\n  cvrnet predict {output} IMAGES")
