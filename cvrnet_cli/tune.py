"""``cvrnet tune``."""

from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Make a trained model faster in bfloat16.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@options.manifest("paths")
@options.folds
@options.device
@options.any_body_part
def tune(model: str, paths: tuple[str, ...], **settings: Any) -> None:
    """Find the parts of MODEL that must compute in float32, on images at PATH... that are not training images.

    In bfloat16, a few parts of a network must stay in float32, so that the probabilities hardly change. These parts
    depend on the weights. The command uses at most 64 of the images to find a small set of parts. With these parts in
    float32, no probability of these images differs by more than 0.0025 from its value in float32. The set is stored in
    MODEL's config.json. In bfloat16, cvrnet predict is then usually faster than before. After a training in bfloat16,
    cvrnet train and crossval do the same with the validation images, if there are at least 32, but not for models that
    classify all images of a study or patient together.

    \b
    Examples:
      cvrnet tune run images/
      cvrnet tune run validation.csv --fold 1,3
    """
    from cvrnet.workflows.tune import tune as run

    with job_callbacks() as callbacks:
        rows = run(model, paths, callbacks=callbacks, **settings)
    print_rows(rows)
    say(f"The parts are stored in {model}.")
