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
    """Find the parts of MODEL (a CVR-Net) that must compute in float32 when the other parts compute in bfloat16.

    In bfloat16, some parts of a network change the probabilities too much. Which parts these are depends on the
    weights. The command finds a small set of parts, using at most 64 of the images at PATH..., which should not be
    training images. With this set in float32, each probability of these images should differ by at most 0.0025 from
    the result of a network that is completely in float32; if one differs more, a message says so. If more than half
    of the operations had to be in float32, the whole network is in float32. The set is stored in MODEL's
    config.json, and usually makes cvrnet predict faster in bfloat16. After training in bfloat16, cvrnet train and
    crossval do the same with the validation images, if there are at least 32, but not for models that classify all
    images of a study or patient together.

    \b
    Examples:
      cvrnet tune run images/
      cvrnet tune run validation.csv --fold 1,3
    """
    from cvrnet.workflows.tune import tune as run

    with job_callbacks() as callbacks:
        rows = run(model, paths, callbacks=callbacks, **settings)
    print_rows(rows)
    say(f"The names of the parts that stay in float32 are stored in {model}.")
