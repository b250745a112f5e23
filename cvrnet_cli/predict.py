"""``cvrnet predict``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import FORMATS, output_file, progress_bar, say, write_rows


@click.command(short_help="Class probabilities of images.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of stdout."
)
@options.style
@click.option("--heads", is_flag=True, help="Also print each head's own probabilities (CVR-Nets).")
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Also print the predictive entropy and how far folds and heads disagree, in nats.",
)
@click.option(
    "--window",
    type=click.Choice(["lung", "soft-tissue"]),
    help="For CTs in DICOM: lung (level -600, width 1500 HU) or soft-tissue (50, 400).  [default: the file's own]",
)
@options.folds
@click.option(
    "--compile", is_flag=True, help="Use torch.compile: for many images, since it takes half a minute or more to start."
)
@options.batch_size
@options.device
@options.amp
@options.overwrite
def predict(
    model: str,
    paths: tuple[str, ...],
    output: Path | None,
    style: str | None,
    heads: bool,
    uncertainty: bool,
    window: str | None,
    folds: list[int],
    compile: bool,
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
) -> int:
    """Classify the images at PATH...: files, folders (searched), CSV manifests, or quoted patterns such as "*.png".

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or a
    FILE.onnx. An image that cannot be read is reported and the others are still classified; the exit status is then 1.

    The slices of a CT in DICOM (a folder of slices, or a file of many frames) are followed by the patient's mean.

    \b
    Examples:
      cvrnet predict run chest.png
      cvrnet predict run images/ --format csv -o predictions.csv
      cvrnet predict run "scans/**/*.png" --heads --format jsonl
      cvrnet predict run ct/ --window lung --format csv
      cvrnet predict run images/ --folds 1,3 --uncertainty
      accelerate launch --multi_gpu --num_processes 2 -m cvrnet predict run images/ -o predictions.csv
    """
    from cvrnet.data.series import arrange
    from cvrnet.devices import check_launch
    from cvrnet.inference import Predictor
    from cvrnet.inference.find_images import find_images
    from cvrnet.inference.uncertainty import UNCERTAINTY
    from cvrnet.inference.volumes import add_means

    check_launch()
    shared: Any = None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # accelerate launch started this process and others
        from cvrnet.inference.distributed import SharedPrediction

        shared = SharedPrediction(device or "auto")
        device = shared.device
    predictor = Predictor.from_pretrained(model, device or "auto", amp or "auto", folds=folds, compile=compile)
    slices = list(arrange(find_images(paths)))
    files = [slice_.path for slice_ in slices]
    run = predictor.stream if shared is None else partial(shared.stream, predictor)
    stream = run(files, batch_size=batch_size or 8, heads=heads, window=window or "")
    if shared is not None and not shared.is_main:
        list(stream)  # does this process's share; the main process gets the answers
        shared.close()
        return 0
    suffix = output.suffix.lstrip(".").lower() if output else ""
    style = style or (suffix if suffix in FORMATS else "table")
    volumes = any(slice_.volume for slice_ in slices)
    columns = ["path", *(("unit", "patient_id") if volumes else ()), "prediction"]
    columns += [f"prob_{name}" for name in predictor.classes]
    if heads:
        columns += [f"head_{i + 1}_{name}" for i in range(predictor.num_heads) for name in predictor.classes]
    columns += [*(UNCERTAINTY if uncertainty else ()), "error"]
    failed = 0

    def predictions() -> Iterator[Any]:
        nonlocal failed
        for done, prediction in enumerate(stream, start=1):
            progress(done, len(slices))
            if prediction.error:
                failed += 1
                say(f"Error: {prediction.error}")
            yield prediction

    with output_file(output, overwrite) as file, progress_bar("Predicting") as progress:
        answers = add_means(zip(slices, predictions(), strict=True), predictor.classes)
        empty = dict.fromkeys(columns)  # for what an answer lacks, such as probabilities of an unreadable image
        write_rows((empty | answer.row(predictor.classes) for answer in answers), columns, style, file)
    if failed:
        say(f"Error: {failed} of {len(slices)} images could not be read")
    if shared is not None:
        shared.close()
    return 1 if failed else 0
