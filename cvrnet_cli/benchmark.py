"""``cvrnet benchmark``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows
from cvrnet_cli.train import epoch_bars


@click.command(short_help="Several models on the same folds: one table, with tests of the differences.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--models", required=True, help="timm classifiers, or parts of a CVR-Net, such as cvrnet,resnet50,cvrnet:p3."
)
@options.output_folder(required=True, help_text="A run a model, benchmark.csv, benchmark.md, benchmark.json, figures/.")
@click.option("--folds", type=click.IntRange(3), default=5, show_default=True, help="Number of folds.")
@options.classes
@click.option("--test-source", default="", help="Source that is in no fold, and that every model is tested on as well.")
@click.option("--split-from", type=click.Path(path_type=Path), help="A split.csv whose folds are taken.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where decoded images are kept.")
@click.option("--resume", is_flag=True, help="Go on with the benchmark that is there; further --models may join it.")
@options.overwrite
@options.style
@options.protocol
def benchmark(
    data: Path,
    models: str,
    output: Path,
    folds: int,
    classes: str | None,
    test_source: str,
    split_from: Path | None,
    cache_dir: Path | None,
    resume: bool,
    overwrite: bool,
    style: str | None,
    recipe: str,
    **settings: Any,
) -> None:
    """Cross-validate several models on DATA under one protocol: the same folds, seed and test source.

    The others are compared with cvrnet if it is among them, otherwise with the first. An interrupted benchmark goes on
    with --resume. Parts of a CVR-Net are left out by name: cvrnet:encoder1 and cvrnet:encoder2 (one encoder), cvrnet:p3
    (the head P3 alone), cvrnet:mean-logits (logits averaged in place of probabilities).

    \b
    Examples:
      cvrnet benchmark manifest.csv --models cvrnet,resnet50,legacy_xception,densenet121 -o table
      cvrnet benchmark manifest.csv --models cvrnet,cvrnet:p3,cvrnet:encoder1 -o ablations --test-source figure1
    """
    from cvrnet.workflows.sweep import benchmark as run
    from cvrnet.workflows.sweep import benchmark_rows, brief_rows

    config = options.training_config(recipe, settings)
    with contextlib.ExitStack() as stack:
        on_decode = stack.enter_context(progress_bar("Decoding"))

        def progress(model: str, fold: int) -> Any:
            say(f"{model}, fold {fold}")
            return stack.enter_context(epoch_bars(config))

        result = run(
            data,
            output,
            options.split_names(models),
            config,
            n_folds=folds,
            classes=options.split_names(classes) or None,
            test_source=test_source,
            split_from=split_from,
            resume=resume,
            overwrite=overwrite,
            cache_folder=cache_dir,
            progress=progress,
            on_decode=on_decode,
        )
    if result:  # nothing on the other processes of a distributed run
        rows = brief_rows(result) if style in (None, "table") else benchmark_rows(result)
        write_rows(rows, list(rows[0]), style or "table", sys.stdout)
        say(f"\nThe whole table (benchmark.md, .csv, .json), its figure and a run a model are in {output}")
