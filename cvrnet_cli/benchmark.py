"""``cvrnet benchmark``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Compare several models on the same folds, and test the differences.")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@click.option(
    "--models", type=options.names, required=True, help="Names of timm models, such as cvrnet,resnet50,cvrnet:p3."
)
@options.output(
    "Folder for a run of each model, benchmark.csv, benchmark.md, benchmark.json and figures/.", required=True
)
@options.n_folds
@options.test_source
@options.split_from
@options.job
@options.style
@options.protocol
def benchmark(data: Path, models: tuple[str, ...], output: Path, style: str, **settings: Any) -> None:
    """Cross-validate several models on DATA under one protocol: the same folds, seed and test source.

    Each model is compared with cvrnet or, if cvrnet is not among --models, with the first model. --resume continues an
    interrupted benchmark, and can add further --models. A suffix changes a CVR-Net: cvrnet:encoder1 keeps only the
    first encoder, cvrnet:encoder2 keeps only the second, cvrnet:p3 keeps only the head on the deepest maps of both
    encoders, and cvrnet:mean-logits averages the heads' logits instead of their probabilities.

    \b
    Examples:
      cvrnet benchmark manifest.csv --models cvrnet,resnet50,legacy_xception,densenet121 -o table
      cvrnet benchmark manifest.csv --models cvrnet,cvrnet:p3,cvrnet:encoder1 -o ablations --test-source figure1
    """
    from cvrnet.workflows import benchmark as run
    from cvrnet.workflows.benchmark_table import benchmark_rows, brief_rows, paired_finding_rows

    config, job = options.training_config(settings)
    with job_callbacks(config) as callbacks:
        result = run(data, output, models, config, callbacks=callbacks, **job)
    if result:  # only the main process of a distributed run has a result
        print_rows(brief_rows(result) if style == "table" else benchmark_rows(result), style=style)
        if style == "table" and (paired := paired_finding_rows(result)):
            click.echo()
            print_rows(paired)
        say(f"\nThe whole table (benchmark.md, .csv, .json), its figure and the models' runs are in {output}")
