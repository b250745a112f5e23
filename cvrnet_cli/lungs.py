"""``cvrnet lungs``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import job_callbacks, print_rows, say


@click.command(short_help="Find the lungs: train a segmenter on given masks, and write masks for all other images.")
@click.argument("data", type=options.PATH)
@options.manifest("data")
@options.output(
    "Folder for the masks, the segmenter, quality scores, and a manifest of images and masks.", required=True
)
@click.option(
    "--segmenter", type=options.PATH, help="Output folder of an earlier cvrnet lungs, whose segmenter is used."
)
@click.option("--folds", "n_folds", type=click.IntRange(2), default=5, help="Number of cross-validation folds.")
@click.option("--epochs", type=click.IntRange(1), default=25, help="Number of training epochs.")
@click.option(
    "--img-size",
    "size",
    type=click.IntRange(64, 512),
    default=160,
    help="Height and width of the segmenter's input in pixels, a multiple of 32.",
)
@click.option(
    "--phantoms",
    type=click.IntRange(0),
    default=0,
    help="Number of synthetic images added to the training images: 0, or 12 or more.",
)
@options.seed
@options.device
@options.amp
@options.any_body_part
@options.style
@options.overwrite
def lungs(data: Path, output: Path, style: str, **settings: Any) -> int:
    """Find the lungs in the frontal radiographs of DATA, for --lungs mask and --lungs crop of other commands.

    Without --segmenter, a small U-Net is trained on the images that have a lung_mask (at least ten). Its quality (Dice,
    Hausdorff distance) is cross-validated by patient. Then the segmenter finds the lungs of images without a mask.
    Implausible masks (judged by area, number of lungs, and contact with the border) are flagged, and the manifest in
    the output folder does not name them. So other commands neither mask nor crop an image whose mask is implausible.
    See lungs.png, masks.csv and quality.csv in the output folder.

    The command names each image that cannot be read, and each given mask that cannot be used, and continues. The exit
    status is then 1.

    \b
    Examples:
      cvrnet lungs manifest.csv -o masks
      cvrnet lungs images/ -o more-masks --segmenter masks
      cvrnet train manifest.csv -o run --lungs crop --segmenter masks
    """
    from cvrnet.workflows.find_lungs import find_lungs

    with job_callbacks() as callbacks:
        found = find_lungs(data, output, callbacks=callbacks, **settings)
    rows = [{"masks": name, "images": found[name]} for name in ("given", "found", "implausible")]
    if style == "table":
        print_rows(rows)
        for name, score in found["quality"].items():
            low, high = score["interval"] or (float("nan"), float("nan"))
            say(f"{name}: {score['mean']:.4f} (95 % interval {low:.4f} to {high:.4f})")
    else:
        print_rows([*rows, {"masks": "problems", "images": len(found["problems"])}], style=style)
    if found["implausible"]:
        say(f"Implausible masks, whose images are used whole: {found['implausible']}; see {output / 'masks.csv'}")
    say(f"\nLook at {output / 'lungs.png'}. Next, one of:")
    say(f"  cvrnet train {data} -o run --lungs crop --segmenter {output}")
    say(f"  cvrnet train {output / 'manifest.csv'} --images {found['images_root']} -o run --lungs crop")
    return int(bool(found["problems"]))
