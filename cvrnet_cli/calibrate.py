"""``cvrnet calibrate``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Calibrate a trained model with a few images of another hospital.")
@click.argument("model")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output("Folder of the calibrated model, which every command accepts as MODEL.", required=True)
@click.option(
    "--unlabelled",
    is_flag=True,
    help="DATA has no labels: adapt the probabilities to the estimated shares of the classes.",
)
@options.inference
@options.overwrite
def calibrate(model: str, data: Path, output: Path, **settings: Any) -> None:
    """Calibrate MODEL on DATA, 20 to 200 images of the hospital where the model will be used.

    With labels, the command fits one temperature and a bias for each class, and chooses new thresholds, prediction sets
    and limits of uncertainty (for --abstain of cvrnet predict). It prints a table of each score before and after the
    calibration, cross-validated by patient, with 95 % intervals.

    Without labels (--unlabelled), the command estimates the shares of the classes, and corrects the probabilities for
    these shares (Saerens et al. 2002).

    In both cases, if MODEL can mark unusual images, the calibrated model marks an image that is less similar to the
    training images than 95 % of the images in DATA are. The command stops with an error if MODEL was trained or
    validated on an image of DATA, or on another image of the same patient.

    The network is not trained: if it cannot distinguish two classes now, it cannot distinguish them afterwards.

    \b
    Examples:
      cvrnet calibrate run our-images/ -o ours
      cvrnet calibrate run manifest.csv -o ours
      cvrnet calibrate run our-images/ -o ours --unlabelled
      cvrnet predict ours images/ --operating-point sensitivity=0.9
    """
    from cvrnet.workflows import calibrate as run

    with job_callbacks() as callbacks:
        result = run(model, data, output, callbacks=callbacks, **settings)
    print_rows(result["rows"])
    say("")
    for sentence in result["sentences"]:
        say(f"{sentence[0].upper()}{sentence[1:]}.")
    say(f"The calibrated model is in {output}.")
