"""``cvrnet predict``."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import FORMATS, output_file, progress_bar, say, write_rows

if TYPE_CHECKING:
    from cvrnet.data.series import Slice

Pair = tuple["Slice", Any]
"""An image and its prediction."""


@click.command(short_help="Class probabilities of images.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write instead of stdout."
)
@options.style
@click.option("--heads", is_flag=True, help="Each head's own probabilities too (CVR-Nets).")
@click.option("--uncertainty", is_flag=True, help="Predictive entropy, and how far folds and heads disagree; in nats.")
@click.option(
    "--window",
    type=click.Choice(["lung", "soft-tissue"]),
    help="Of CTs in DICOM: lung (level -600, width 1500 HU) or soft-tissue (50, 400).  [default: the file's own]",
)
@options.folds
@click.option("--compile", is_flag=True, help="torch.compile: for many images; takes half a minute or more to begin.")
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
    FILE.onnx. An image that cannot be read is named and the others go on; the exit status is 1 at the end.

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
    from cvrnet.inference.uncertainty import UNCERTAINTY

    check_launch()
    shared = _join(device)
    if style is None:
        suffix = output.suffix.lstrip(".").lower() if output else ""
        style = suffix if suffix in FORMATS else "table"
    device = shared.device if shared else device or "auto"
    predictor = Predictor.from_pretrained(model, device, amp or "auto", folds=folds, compile=compile)
    slices = list(arrange(find_images(paths)))
    volumes = any(slice_.volume for slice_ in slices)
    columns = [
        "path",
        *(("unit", "patient_id") if volumes else ()),
        "prediction",
        *(f"prob_{name}" for name in predictor.classes),
    ]
    if heads:
        columns += [f"head_{i + 1}_{name}" for i in range(predictor.num_heads) for name in predictor.classes]
    columns += [*(UNCERTAINTY if uncertainty else ()), "error"]
    given: Any = {"batch_size": batch_size or 8, "heads": heads, "window": window or ""}
    if shared is None:
        stream = predictor.stream((slice_.path for slice_ in slices), **given)
    else:
        stream = shared.stream(predictor, lambda: (slice_.path for slice_ in slices), **given)
    status = _write(stream, slices, predictor.classes, columns, style, output, overwrite) if _is_main(shared) else 0
    if shared is not None:
        for _ in stream:  # the other processes work, and have nothing to write
            pass
        shared.close()
    return status


def _join(device: str | None) -> Any:
    """This process's place among several; None where it is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    from cvrnet.inference.distributed import SharedPrediction

    return SharedPrediction(device or "auto")


def _is_main(shared: Any) -> bool:
    return shared is None or shared.is_main


def _write(
    stream: Iterator[Any],
    slices: Sequence[Slice],
    classes: Sequence[str],
    columns: Sequence[str],
    style: str,
    output: Path | None,
    overwrite: bool,
) -> int:
    """Write the predictions as they come; the exit status."""
    total, failed = len(slices), 0

    def predictions() -> Iterator[Any]:
        nonlocal failed
        for done, prediction in enumerate(stream, start=1):
            progress(done, total)
            if prediction.error:
                failed += 1
                say(f"Error: {prediction.error}")
            yield prediction

    with output_file(output, overwrite) as file, progress_bar("Predicting") as progress:
        pairs = zip(slices, predictions(), strict=True)
        rows = (_row(unit, pair, classes, columns) for unit, pair in with_means(pairs, classes))
        write_rows(rows, columns, style, file)
    if failed:
        say(f"Error: {failed} of {total} images could not be read")
    return 1 if failed else 0


def find_images(paths: Sequence[str]) -> Iterator[Path]:
    """The images that the arguments mean, in order; a name that means nothing stays, and fails when it is read."""
    from cvrnet.data import read_records
    from cvrnet.data.image import is_image_file

    for text in paths:
        path = Path(text)
        if text.startswith("hfds:"):
            yield from (record.path for record in read_records(text, labelled=False))
        elif path.is_dir():
            for folder, folders, files in os.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(files):
                    if is_image_file(Path(folder) / name):
                        yield Path(folder) / name
        elif path.suffix.lower() == ".csv" and path.is_file():
            yield from (record.path for record in read_records(path, labelled=False))
        elif not path.exists() and (matches := sorted(glob.glob(text, recursive=True))):
            yield from map(Path, matches)
        else:
            yield path


def with_means(pairs: Iterable[Pair], classes: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """Each image; behind a patient's slices their mean, and, of several series, the mean of each one before it.

    Args:
        pairs: Images as `cvrnet.data.series.arrange` gives them, and their predictions.
        classes: The class names.

    Yields:
        ``image``, ``slice``, ``series`` or ``patient``, and the pair.
    """
    for (_, volume), group in itertools.groupby(pairs, lambda pair: (pair[0].key[0], pair[0].volume is not None)):
        if not volume:
            yield from (("image", pair) for pair in group)
            continue
        slices = []
        for pair in group:
            slices.append(pair)
            yield "slice", pair
        series = [list(each) for _, each in itertools.groupby(slices, lambda pair: pair[0].key)]
        if len(series) > 1:
            yield from (("series", _mean(each, classes)) for each in series)
        yield "patient", _mean(slices, classes)


def _mean(pairs: Sequence[Pair], classes: Sequence[str]) -> Pair:
    """The mean over the slices that could be read, under the path of their volume, or of the folder of all volumes."""
    first, prediction = pairs[0]
    volumes = {str(slice_.volume) for slice_, _ in pairs}
    path = Path(os.path.commonpath(volumes))
    read = [prediction for _, prediction in pairs if not prediction.error]
    if not read:
        return first, replace(prediction, path=path, error=f"{path}: no slice could be read")
    probabilities = sum(p.probabilities for p in read) / len(read)
    mean = replace(
        read[0],
        path=path,
        label=classes[int(probabilities.argmax())],
        probabilities=probabilities,
        heads=None if read[0].heads is None else sum(p.heads for p in read) / len(read),
        predictive_entropy=None,  # of answers to different images there is none
        mutual_information=None,
    )
    return first, mean


def _row(unit: str, pair: Pair, classes: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    slice_, prediction = pair
    return {
        **dict.fromkeys(columns),
        "unit": unit,
        "patient_id": slice_.patient,
        **prediction.row(classes),
    }
