"""``cvrnet crossval``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import auditing, options
from cvrnet_cli.output import progress_bar, say, write_rows
from cvrnet_cli.train import epoch_bars


@click.command(short_help="The papers' cross-validation: every fold trained and tested.")
@click.argument("data", type=click.Path(path_type=Path), required=False)
@options.output_folder(required=False, help_text="The run: fold-1/ and so on, summary.json, report.html.")
@click.option("--folds", type=click.IntRange(3), default=5, show_default=True, help="Number of folds.")
@options.classes
@click.option("--test-source", default="", help="Source that is in no fold, and that every fold is tested on as well.")
@click.option("--leave-one-source-out", is_flag=True, help="--test-source for each source in turn: -o/SOURCE is a run.")
@click.option("--split-from", type=click.Path(path_type=Path), help="A split.csv whose folds are taken.")
@click.option("--only-fold", type=click.IntRange(1), help="Train this fold alone, on one of several machines.")
@click.option("--collect", type=click.Path(path_type=Path), metavar="RUN", help="Join the folds that are in RUN.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where decoded images are kept.")
@click.option("--resume", is_flag=True, help="Go on with the run that is there.")
@options.overwrite
@auditing.no_audit
@options.training
def crossval(
    data: Path | None,
    output: Path | None,
    folds: int,
    classes: str | None,
    test_source: str,
    leave_one_source_out: bool,
    split_from: Path | None,
    only_fold: int | None,
    collect: Path | None,
    cache_dir: Path | None,
    resume: bool,
    overwrite: bool,
    no_audit: bool,
    recipe: str,
    **settings: Any,
) -> None:
    """Cross-validate a model on DATA: fold k tests, fold k+1 validates, the others train.

    Folds are stratified by label and source, and never share a patient. An interrupted run goes on with --resume.

    \b
    Examples:
      cvrnet crossval manifest.csv -o run
      cvrnet crossval manifest.csv -o run --test-source figure1
      cvrnet crossval manifest.csv -o shift --leave-one-source-out
      cvrnet crossval manifest.csv -o other --split-from run/split.csv --model densenet121
      cvrnet crossval manifest.csv -o run --only-fold 3     (and so on, then:)
      cvrnet crossval --collect run
    """
    from cvrnet.workflows.collect import collect as join
    from cvrnet.workflows.collect import summary_rows
    from cvrnet.workflows.crossval import cross_validate

    if collect is not None:
        if data is not None:
            raise click.UsageError("--collect takes the run alone, without DATA")
        _show(summary_rows(join(collect)), collect)
        return
    if data is None or output is None:
        raise click.UsageError("expected DATA and -o RUN, or --collect RUN")
    config = options.training_config(recipe, settings)
    audit = auditing.auditor(data, output, no_audit)
    if leave_one_source_out:
        if test_source or split_from or only_fold:
            raise click.UsageError("--leave-one-source-out excludes --test-source, --split-from and --only-fold")
        common = {"n_folds": folds, "resume": resume, "overwrite": overwrite, "cache_folder": cache_dir}
        _each_source(data, output, config, audit, classes=options.split_names(classes) or None, **common)
        return
    with contextlib.ExitStack() as stack:
        on_decode = stack.enter_context(progress_bar("Decoding"))

        def progress(fold: int) -> Any:
            audit()
            say(f"fold {fold}")
            return stack.enter_context(epoch_bars(config))

        result = cross_validate(
            data,
            output,
            config,
            n_folds=folds,
            classes=options.split_names(classes) or None,
            test_source=test_source,
            split_from=split_from,
            only_fold=only_fold,
            resume=resume,
            overwrite=overwrite,
            cache_folder=cache_dir,
            progress=progress,
            on_decode=on_decode,
        )
    if only_fold is not None:
        say(f"\nFold {only_fold} is in {output}. When all are there:\n  cvrnet crossval --collect {output}")
    elif result:
        _show(summary_rows(result), output)


def _each_source(data: Path, output: Path, config: Any, audit: Callable[[], None], **arguments: Any) -> None:
    from cvrnet.workflows.source_shift import leave_one_source_out, source_rows

    with contextlib.ExitStack() as stack:

        def progress(source: str, fold: int) -> Any:
            audit()
            say(f"without {source}, fold {fold}")
            return stack.enter_context(epoch_bars(config))

        on_decode = stack.enter_context(progress_bar("Decoding"))
        summary = leave_one_source_out(data, output, config, progress=progress, on_decode=on_decode, **arguments)
    rows = source_rows(summary)
    if rows:  # nothing on the other processes of a distributed run
        write_rows(rows, list(rows[0]), "table", sys.stdout)
        say(f"\nA run a source, and summary.json, are in {output}")
        if all(row["problem"] for row in rows):
            raise click.ClickException("no source can be left out")


def _show(rows: list[dict[str, Any]], output: Path) -> None:
    from cvrnet.report import write_report
    from cvrnet.report.explanations import maps_section

    write_rows(rows, list(rows[0]), "table", sys.stdout)
    write_report(output, [maps_section(output)])
    say(f"\nThe report is {output / 'report.html'}; the folds, summary.json and figures are beside it.")
    say(f"Next:\n  cvrnet predict {output} IMAGES")
