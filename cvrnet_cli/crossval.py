"""``cvrnet crossval``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Cross-validate as in the papers: train and test a model for each fold.")
@click.argument("data", type=options.PATH, required=False)
@options.manifest("data")
@options.output("Folder of the run: fold-1/ and so on, summary.json and report.html.")
@options.n_folds
@options.test_source
@click.option(
    "--leave-one-source-out", is_flag=True, help="Make one run for each source, with this source as --test-source."
)
@options.split_from
@click.option(
    "--only-fold",
    type=click.IntRange(1),
    help="Train only this fold, for example to train each fold on a different machine.",
)
@click.option("--collect", type=options.PATH, metavar="RUN", help="Summarise the trained folds in RUN.")
@options.job
@options.training
def crossval(
    data: Path | None, output: Path | None, leave_one_source_out: bool, collect: Path | None, **settings: Any
) -> None:
    """Cross-validate on DATA: train one model for each fold, and test it on this fold.

    Model k is tested on fold k, validated on the next fold, and trained on the other folds. Folds are stratified by
    label and source, and never share a patient. The images of --test-source are in no fold, and are scored
    separately. Without --test-source, this holds for the images that have the value test in the column split of the
    manifest. --resume continues an interrupted run.

    \b
    Examples:
      cvrnet crossval manifest.csv -o run
      cvrnet crossval manifest.csv -o run --test-source figure1
      cvrnet crossval manifest.csv -o shift --leave-one-source-out
      cvrnet crossval manifest.csv -o other --split-from run/split.csv --model densenet121
      cvrnet crossval manifest.csv -o run --only-fold 3     (once for each fold, then:)
      cvrnet crossval --collect run
    """
    from cvrnet import workflows
    from cvrnet.folders import lock_folder, real_folder

    config, job = options.training_config(settings)
    if collect is not None:
        if data is not None:
            raise click.UsageError("--collect RUN takes no DATA")
        with lock_folder(real_folder(collect)):
            summary = workflows.collect(collect, maps=job["maps"])
        _show_folds(summary, collect)
        return
    if data is None or output is None:
        raise click.UsageError("expected DATA and -o RUN, or --collect RUN")
    run: Any = workflows.cross_validate
    if leave_one_source_out:
        if any([job.pop("test_source"), job.pop("split_from"), job.pop("only_fold")]):
            raise click.UsageError(
                "--leave-one-source-out cannot be used with --test-source, --split-from or --only-fold"
            )
        run = workflows.leave_one_source_out
    with job_callbacks(config) as callbacks:
        result = run(data, output, config, callbacks=callbacks, **job)
    if not result:
        return  # only the main process of a distributed run has a result
    if leave_one_source_out:
        _show_sources(result, output)
    elif only_fold := job["only_fold"]:
        say(f"\nFold {only_fold} is in {output}. When all folds are trained:\n  cvrnet crossval --collect {output}")
    else:
        _show_folds(result, output)


def _show_folds(summary: Mapping[str, Any], output: Path) -> None:
    from cvrnet.workflows.collect import summary_rows

    print_rows(summary_rows(summary))
    say(f"\nThe report is {output / 'report.html'}; the folds, summary.json and figures are beside it.")
    say(f"Next:\n  cvrnet predict {output} IMAGES")


def _show_sources(summary: Mapping[str, Any], output: Path) -> None:
    from cvrnet.workflows.sweep import source_rows

    if rows := source_rows(summary):
        print_rows(rows)
        say(f"\nThe run of each source, and summary.json, are in {output}")
        if all(row["problem"] for row in rows):
            raise click.ClickException('no source can be left out; the table says why in the column "problem"')
