"""``cvrnet crossval``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import say, write_rows
from cvrnet_cli.progress import job_callbacks


@click.command(short_help="The papers' cross-validation: every fold trained and tested.")
@click.argument("data", type=click.Path(path_type=Path), required=False)
@options.output_folder(required=False, help_text="The run: fold-1/ and so on, summary.json, report.html.")
@options.n_folds
@options.test_source
@click.option("--leave-one-source-out", is_flag=True, help="--test-source for each source in turn: -o/SOURCE is a run.")
@options.split_from
@click.option("--only-fold", type=click.IntRange(1), help="Train this fold alone, on one of several machines.")
@click.option("--collect", type=click.Path(path_type=Path), metavar="RUN", help="Join the folds that are in RUN.")
@options.job
@options.training
def crossval(
    data: Path | None,
    output: Path | None,
    n_folds: int,
    leave_one_source_out: bool,
    split_from: Path | None,
    only_fold: int | None,
    collect: Path | None,
    recipe: str,
    **settings: Any,
) -> None:
    """Cross-validate a model on DATA: fold k tests, fold k+1 validates, the others train.

    Folds are stratified by label and source, and never share a patient. Images whose split is test are in no fold and
    are scored apart. --resume continues an interrupted run.

    \b
    Examples:
      cvrnet crossval manifest.csv -o run
      cvrnet crossval manifest.csv -o run --test-source figure1
      cvrnet crossval manifest.csv -o shift --leave-one-source-out
      cvrnet crossval manifest.csv -o other --split-from run/split.csv --model densenet121
      cvrnet crossval manifest.csv -o run --only-fold 3     (and so on, then:)
      cvrnet crossval --collect run
    """
    from cvrnet import workflows
    from cvrnet.workflows.collect import summary_rows

    job = options.job_arguments(settings)
    if collect is not None:
        if data is not None:
            raise click.UsageError("--collect takes the run alone, without DATA")
        _show(summary_rows(workflows.collect(collect, maps=job["maps"])), collect)
        return
    if data is None or output is None:
        raise click.UsageError("expected DATA and -o RUN, or --collect RUN")
    config = options.training_config(recipe, settings)
    if leave_one_source_out:
        if job.pop("test_source") or split_from or only_fold:
            raise click.UsageError("--leave-one-source-out excludes --test-source, --split-from and --only-fold")
        with job_callbacks(config) as callbacks:
            summary = workflows.leave_one_source_out(data, output, config, n_folds=n_folds, callbacks=callbacks, **job)
        if summary:  # the other processes of a distributed run have none
            _show_sources(summary, output)
        return
    with job_callbacks(config) as callbacks:
        result = workflows.cross_validate(
            data,
            output,
            config,
            n_folds=n_folds,
            split_from=split_from,
            only_fold=only_fold,
            callbacks=callbacks,
            **job,
        )
    if only_fold is not None:
        say(f"\nFold {only_fold} is in {output}. When all are there:\n  cvrnet crossval --collect {output}")
    elif result:  # the other processes of a distributed run have none
        _show(summary_rows(result), output)


def _show(rows: list[dict[str, Any]], output: Path) -> None:
    write_rows(rows, list(rows[0]), "table", sys.stdout)
    say(f"\nThe report is {output / 'report.html'}; the folds, summary.json and figures are beside it.")
    say(f"Next:\n  cvrnet predict {output} IMAGES")


def _show_sources(summary: dict[str, Any], output: Path) -> None:
    from cvrnet.workflows.sweep import source_rows

    if rows := source_rows(summary):
        write_rows(rows, list(rows[0]), "table", sys.stdout)
        say(f"\nA run a source, and summary.json, are in {output}")
        if all(row["problem"] for row in rows):
            raise click.ClickException("no source can be left out")
