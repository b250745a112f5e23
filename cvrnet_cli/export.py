"""``cvrnet export``."""

from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say


@click.command(short_help="Export a trained model to an ONNX file.")
@click.argument("model")
@options.manifest("check_images", "calibration")
@options.output("The file to write.", required=True, metavar="FILE.onnx")
@options.folds
@click.option("--img-size", type=click.IntRange(32), help="Height and width in pixels.  [default: as in training]")
@click.option(
    "--check-images",
    type=options.PATH,
    metavar="DATA",
    help="Images on which the file is compared with PyTorch.  [default: the images of --calibration; otherwise the "
    "run's data set; if it is missing, synthetic images]",
)
@click.option("--int8", is_flag=True, help="Quantise to 8-bit integers; needs --calibration.")
@click.option(
    "--calibration",
    type=options.PATH,
    metavar="DATA",
    help="Images for --int8. The ranges of the integers are chosen on the images of some patients, and int8 is "
    "compared with float32 on the images of the other patients.",
)
@click.option(
    "--calibration-images", type=click.IntRange(1), default=128, help="Number of images on which the ranges are chosen."
)
@options.any_body_part
@options.overwrite
def export(model: str, output: Path, **settings: Any) -> None:
    """Write MODEL to FILE.onnx, for ONNX Runtime, OpenVINO and other engines that read ONNX.

    MODEL is a run folder (all its folds as one network), a fold folder, local-dir:FOLDER or hf-hub:user/repo[@rev]. The
    file takes any number of uint8 images, normalises them itself, and contains class names and preprocessing. It is
    written only if its probabilities equal PyTorch's within 1e-4. With --int8, the int8 model is then compared with the
    float32 model on images of --calibration: at least 98 % of them must keep their predicted class, and the accuracy
    may fall by at most one percentage point (for findings: at least 98 % of the decisions must stay the same, and the
    mean AUC may fall by at most 0.01). Otherwise, no file is written. cvrnet predict and cvrnet evaluate accept the
    file as MODEL.

    \b
    Examples:
      cvrnet export run -o model.onnx
      cvrnet export run -o fold-3.onnx --fold 3 --check-images manifest.csv
      cvrnet export run -o model-int8.onnx --int8 --calibration data/
    """
    from cvrnet.onnx import export_onnx

    with progress_bar("Comparing int8") as progress:
        report = export_onnx(model, output, progress=progress, **settings)
    row = {
        "file": output,
        "MB": f"{output.stat().st_size / 1e6:.1f}",
        "folds": report["folds"],
        "max_difference": f"{report['max_difference']:.1e}",
        "checked_on": report["checked_on"],
    }
    print_rows([row])
    if quantization := report.get("quantization"):
        click.echo()
        print_rows([quantization])
    say(f"\nNext:\n  cvrnet predict {output} IMAGES")
