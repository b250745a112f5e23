"""``cvrnet quickstart``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, score_rows, write_rows
from cvrnet_cli.progress import job_callbacks

_SETTINGS: dict[str, Any] = {
    "model": "cvrnet_tiny",
    "pretrained": False,
    "img_size": 96,
    "epochs": 35,
    "lr": 2e-3,
}


@click.command(short_help="The whole way in a few minutes: data, training, evaluation, prediction.")
@click.argument("data", type=click.Path(path_type=Path), required=False)
@options.output_folder(required=False, default="cvrnet-quickstart")
@options.overwrite
@click.option("--epochs", type=click.IntRange(1), default=_SETTINGS["epochs"], show_default=True, help="Of training.")
def quickstart(data: Path | None, output: Path, overwrite: bool, epochs: int) -> None:
    """Fine-tune cvrnet_tiny from random weights, evaluate it, and predict one image.

    Without DATA, on synthetic radiographs that it writes first (no network needed). With DATA, on your own folder
    with one sub-folder a class, or your own manifest.

    \b
    Examples:
      cvrnet quickstart
      cvrnet quickstart my-radiographs/ -o trial
    """
    from cvrnet.data import write_phantoms
    from cvrnet.errors import UserError
    from cvrnet.training import recipe
    from cvrnet.workflows import train as run

    target = output / "run"
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; --overwrite replaces it, -o writes elsewhere")
    if data is None:
        data = output / "phantoms" / "manifest.csv"
        if not data.is_file():
            with progress_bar("Drawing phantoms") as progress:
                write_phantoms(data.parent, 240, size=128, progress=progress)
        say(f"1. Data: synthetic radiographs in {data.parent}")
    else:
        say(f"1. Data: {data}")
    say("2. Training cvrnet_tiny from random weights")
    config = recipe("paper", **{**_SETTINGS, "epochs": epochs})
    with job_callbacks(config) as callbacks:
        metrics = run(data, target, config, overwrite=overwrite, callbacks=callbacks)
    say("3. Evaluation, on patients that it did not learn from")
    scores = list(score_rows(metrics))
    write_rows(scores, list(scores[0]), "table", sys.stdout)
    path = _first_validation_image(data, target)
    say(f"4. Prediction of one image, {path}")
    sys.stdout.flush()
    from cvrnet.inference import Predictor

    (prediction,) = Predictor.from_pretrained(target)([path])
    classes = metrics["val"]["classes"]
    columns = ["prediction", *(f"prob_{name}" for name in classes)]
    write_rows([prediction.row(classes)], columns, "table", sys.stdout)
    say(
        f"\nEverything is in {target}: metrics.json, predictions.csv, figures/, and the model.\n"
        f"Next:\n"
        f"  cvrnet predict {target} {path.parent}\n"
        f"  cvrnet train YOUR_DATA -o run         the papers' network and protocol, from ImageNet weights\n"
        f"  cvrnet train --help"
    )


def _first_validation_image(data: Path, run: Path) -> Path:
    from cvrnet.data import read_records
    from cvrnet.runs.layout import SPLIT
    from cvrnet.runs.split_table import SplitTable

    split = SplitTable.read(run / SPLIT)
    return next(record.path for record in read_records(data) if split.fold_of(record) == "val")
