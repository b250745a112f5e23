"""``cvrnet train``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import auditing, options
from cvrnet_cli.output import progress_bar, say, write_rows


@click.command(short_help="Fine-tune a model on a folder or CSV of radiographs.")
@click.argument("data", type=click.Path(path_type=Path))
@options.output_folder(required=True, help_text="The run: model, metrics, predictions, figures.")
@options.classes
@click.option("--test-source", default="", help="Source that is kept for testing, and never trained on.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where decoded images are kept.")
@click.option("--resume", is_flag=True, help="Go on with the run that is there, from its last whole epoch.")
@options.overwrite
@auditing.no_audit
@options.training
def train(
    data: Path,
    output: Path,
    classes: str | None,
    test_source: str,
    cache_dir: Path | None,
    resume: bool,
    overwrite: bool,
    no_audit: bool,
    recipe: str,
    **settings: Any,
) -> None:
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
    import sys

    from cvrnet.workflows.train import train as run

    config = options.training_config(recipe, settings)
    with progress_bar("Decoding") as on_decode, epoch_bars(config) as progress:
        metrics = run(
            data,
            output,
            config,
            classes=options.split_names(classes) or None,
            test_source=test_source,
            resume=resume,
            overwrite=overwrite,
            cache_folder=cache_dir,
            progress=auditing.before_training(progress, data, output, no_audit),
            on_decode=on_decode,
        )
    if metrics:  # nothing on the other processes of a distributed run
        write_rows(score_rows(metrics), SCORE_COLUMNS, "table", sys.stdout)
        say(f"\nThe report is {output / 'report.html'}; the model and its results are beside it.")
        say(f"Next:\n  cvrnet predict {output} IMAGES")


SCORE_COLUMNS = ("set", "images", "accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "auc_macro")


def score_rows(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a set of images, from what metrics.json holds."""
    for name, scores in metrics.items():
        yield {
            "set": name,
            "images": scores["n"],
            "accuracy": scores["accuracy"],
            "balanced_accuracy": scores["balanced_accuracy"],
            "f1_macro": scores["macro"]["f1"],
            "f1_weighted": scores["weighted"]["f1"],
            "auc_macro": scores["macro"]["roc_auc"],
        }


@contextmanager
def epoch_bars(config: Any) -> Iterator[Any]:
    """Progress of a training: a bar an epoch (where stderr is a terminal), and a line an epoch."""
    from tqdm import tqdm

    from cvrnet.training import Progress

    bar = tqdm(unit="image", disable=None, leave=False)

    def start(epoch: int, images: int, history: list[dict[str, Any]]) -> None:
        bar.reset(total=images)
        left = (config.epochs - epoch + 1) * sum(r["seconds"] for r in history) / len(history) if history else None
        so_far = f", {config.monitor} {history[-1][config.monitor]:.4f}" if history else ""
        at_most = f", at most {tqdm.format_interval(left)} left" if left else ""
        bar.set_description(f"Epoch {epoch}/{config.epochs}{so_far}{at_most}")

    def step(images: int, loss: Any) -> None:
        if bar.update(images):  # tqdm decides when to redraw; only then is the loss fetched from the device
            bar.set_postfix(loss=f"{loss():.4f}", refresh=False)

    def end(row: dict[str, Any]) -> None:
        bar.clear()
        say(
            f"epoch {row['epoch']:3d}/{config.epochs}  train_loss {row['train_loss']:.4f}  "
            f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  lr {row['lr']:.1e}  "
            f"{row['seconds']:.0f} s" + ("  best" if row["best"] else "")
        )

    try:
        yield Progress(start=start, step=step, end=end)
    finally:
        bar.close()
