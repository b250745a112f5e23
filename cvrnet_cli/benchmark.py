"""``cvrnet benchmark``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, write_rows
from cvrnet_cli.progress import job_callbacks


@click.command(short_help="Several models on the same folds: one table, with tests of the differences.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--models", required=True, help="timm classifiers, or parts of a CVR-Net, such as cvrnet,resnet50,cvrnet:p3."
)
@options.output_folder(required=True, help_text="A run a model, benchmark.csv, benchmark.md, benchmark.json, figures/.")
@options.n_folds
@options.test_source
@options.split_from
@options.job
@options.style
@options.protocol
def benchmark(
    data: Path,
    models: str,
    output: Path,
    n_folds: int,
    split_from: Path | None,
    style: str | None,
    recipe: str,
    **settings: Any,
) -> None:
    """Cross-validate several models on DATA under one protocol: the same folds, seed and test source.

    The others are compared with cvrnet if it is among them, otherwise with the first. --resume continues an interrupted
    benchmark; further --models may join it. Parts of a CVR-Net are left out by name: cvrnet:encoder1 and
    cvrnet:encoder2 (one encoder), cvrnet:p3 (the head P3 alone), cvrnet:mean-logits (logits averaged in place of
    probabilities).

    \b
    Examples:
      cvrnet benchmark manifest.csv --models cvrnet,resnet50,legacy_xception,densenet121 -o table
      cvrnet benchmark manifest.csv --models cvrnet,cvrnet:p3,cvrnet:encoder1 -o ablations --test-source figure1
    """
    from cvrnet.workflows import benchmark as run
    from cvrnet.workflows.benchmark_table import benchmark_rows, brief_rows

    job = options.job_arguments(settings)
    config = options.training_config(recipe, settings)
    names = options.split_names(models)
    with job_callbacks(config) as callbacks:
        result = run(data, output, names, config, n_folds=n_folds, split_from=split_from, callbacks=callbacks, **job)
    if result:  # the other processes of a distributed run have none
        rows = brief_rows(result) if style in (None, "table") else benchmark_rows(result)
        write_rows(rows, list(rows[0]), style or "table", sys.stdout)
        say(f"\nThe whole table (benchmark.md, .csv, .json), its figure and a run a model are in {output}")
