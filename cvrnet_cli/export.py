"""``cvrnet export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows


@click.command(short_help="A trained model as an ONNX file.")
@click.argument("model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE.onnx", help="The file to write."
)
@options.folds
@click.option("--img-size", type=click.IntRange(32), help="Height and width in pixels.  [default: as in training]")
@click.option(
    "--check-images",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Images on which the file is checked.  [default: the calibration's, the training's, or phantoms]",
)
@click.option("--int8", is_flag=True, help="Quantise to 8-bit integers; needs --calibration.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Images for --int8: some patients' give the ranges, the others' are compared with float32.",
)
@click.option(
    "--calibration-images", type=click.IntRange(1), default=128, show_default=True, help="Number that give the ranges."
)
@options.overwrite
def export(model: str, output: Path, folds: list[int], **settings: Any) -> None:
    """Write MODEL to FILE.onnx, for ONNX Runtime, OpenVINO and other engines that read ONNX.

    MODEL is a run folder (all its folds as one network), a fold folder, local-dir:FOLDER or hf-hub:user/repo[@rev].
    The file takes any number of uint8 images, normalises them itself, and contains class names and preprocessing. It
    is written only if its probabilities equal PyTorch's within 1e-4; with --int8, if at least 98 % of the images keep
    their class and the accuracy falls by at most one point. predict and evaluate accept it as MODEL.

    \b
    Examples:
      cvrnet export run -o model.onnx
      cvrnet export run/fold-3 -o fold-3.onnx --check-images manifest.csv
      cvrnet export run -o model-int8.onnx --int8 --calibration data/
    """
    from cvrnet.onnx import export_onnx

    with progress_bar("Comparing int8") as progress:
        report = export_onnx(model, output, folds=folds, progress=progress, **settings)
    row = {
        "file": output,
        "MB": f"{output.stat().st_size / 1e6:.1f}",
        "folds": report["folds"],
        "max_difference": f"{report['max_difference']:.1e}",
        "checked_on": report["checked_on"],
    }
    write_rows([row], list(row), "table", sys.stdout)
    if quantization := report.get("quantization"):
        click.echo()
        write_rows([quantization], list(quantization), "table", sys.stdout)
    say(f"\nNext:\n  cvrnet predict {output} IMAGES")
