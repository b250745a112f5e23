"""``cvrnet train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, score_rows, write_rows
from cvrnet_cli.progress import job_callbacks


@click.command(short_help="Fine-tune a model on a folder or CSV of radiographs.")
@click.argument("data", type=click.Path(path_type=Path))
@options.output_folder(required=True, help_text="The run: model, metrics, predictions, figures, report.")
@options.test_source
@options.job
@options.training
def train(data: Path, output: Path, recipe: str, **settings: Any) -> None:
    """Fine-tune a model on DATA and evaluate its best epoch.

    DATA is a folder with one sub-folder a class, or a CSV manifest with the columns path,label and, where known,
    source,patient_id,split. Patients are never split between training, validation and test.

    \b
    Examples:
      cvrnet train images/ -o run
      cvrnet train manifest.csv -o run --test-source figure1 --epochs 50
      cvrnet train manifest.csv -o run --model cvrnet_tiny --img-size 96 --no-pretrained
      cvrnet train manifest.csv -o baseline --model densenet121
      accelerate launch --multi_gpu --num_processes 2 -m cvrnet train manifest.csv -o run   (GPUs or CPUs)
    """
    from cvrnet.workflows import train as run

    job = options.job_arguments(settings)
    config = options.training_config(recipe, settings)
    with job_callbacks(config) as callbacks:
        metrics = run(data, output, config, callbacks=callbacks, **job)
    if metrics:  # the other processes of a distributed run have none
        rows = list(score_rows(metrics))
        write_rows(rows, list(rows[0]), "table", sys.stdout)
        say(f"\nThe report is {output / 'report.html'}; the model and its results are beside it.")
        say(f"Next:\n  cvrnet predict {output} IMAGES")
