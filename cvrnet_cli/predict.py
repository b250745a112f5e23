"""``cvrnet predict``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import FORMATS, output_file, progress_bar, say, write_rows


@click.command(short_help="Predict class probabilities of images.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@options.manifest("paths")
@options.output("File to write instead of stdout.", options.OutputPath(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--format", "style", type=click.Choice(FORMATS), help="Output format.  [default: the file's suffix, or table]"
)
@click.option("--heads", is_flag=True, help="Also print each head's own probabilities (CVR-Nets).")
@click.option("--uncertainty", is_flag=True, help="Also print entropy, and disagreement of folds and heads, in nats.")
@click.option(
    "--operating-point",
    default="",
    metavar="NAME",
    help="Also print whether each class is positive at a threshold that training chose. NAME is the threshold's "
    "rule: sensitivity, specificity, youden, or a rule with its target, such as sensitivity=0.9.",
)
@click.option(
    "--coverage",
    type=click.FloatRange(0.5, 0.99),
    help="Also print the set of classes that an image may belong to. For this share of the patients, the set contains "
    "the true class, if the patients are like those of the validation images.",
)
@click.option("--by-class", is_flag=True, help="With --coverage: reach the coverage for each class separately.")
@click.option(
    "--abstain",
    type=click.FloatRange(0.01, 0.99),
    help="Also mark the most uncertain images, which a human should read. The limit of uncertainty is chosen so that "
    "it marks this share of the validation images.",
)
@click.option(
    "--gate/--no-gate",
    default=None,
    help="Print two columns. unlike_training: the share of validation images that are more similar to the training "
    "images than this image is; unusual: 1 if this share is above 0.95.  [default: if the model supports it]",
)
@click.option(
    "--window",
    type=click.Choice(["lung", "soft-tissue"]),
    help="For CTs in DICOM: lung (level -600, width 1500 HU) or soft-tissue (level 50, width 400 HU).  [default: the "
    "file's window]",
)
@click.option("--compile", is_flag=True, help="Use torch.compile: faster for many images, half a minute to start.")
@click.option(
    "--num-workers",
    type=click.IntRange(0, 256),
    default=0,
    help="Processes that decode images; useful if a GPU waits for images. 0: up to 8 threads of this process.",
)
@options.backend
@options.inference
@options.overwrite
def predict(
    paths: tuple[str, ...], output: Path | None, style: str | None, window: str | None, overwrite: bool, **settings: Any
) -> int:
    """Classify the images at PATH...: files, folders (recursive), CSV manifests, or quoted patterns such as "*.png".

    MODEL is a run folder (all its folds as an ensemble), a fold folder, local-dir:FOLDER, hf-hub:user/repo[@rev] or a
    FILE.onnx. Images that cannot be read, and folders without images, are reported; the exit status is then 1. All
    other images are classified.

    For a CT (DICOM: a folder of slices, or a file of many frames), the output has a row for each slice. If a patient
    has several series, a row with the mean of each series follows. The last row of a patient has the mean of all
    slices.

    A model that was trained with --unit study or --unit patient gives one row for each study or patient: a volume
    (NIfTI, DICOM series), the images with the same study_id (or patient_id) in a manifest, or the images in one folder.

    \b
    Examples:
      cvrnet predict run chest.png
      cvrnet predict run images/ --format csv -o predictions.csv
      cvrnet predict run "scans/**/*.png" --heads --format jsonl
      cvrnet predict run images/ --operating-point sensitivity=0.9 -o predictions.csv
      cvrnet predict run images/ --coverage 0.9 --abstain 0.2
      cvrnet predict run ct/ --window lung --format csv
      cvrnet predict run images/ --fold 1,3 --uncertainty
      cvrnet predict run images/ --backend auto -o predictions.csv
      accelerate launch --multi_gpu --num_processes 2 -m cvrnet predict run images/ -o predictions.csv
    """
    from cvrnet.inference.predict_paths import predict_paths

    found = predict_paths(paths=paths, dtype=settings.pop("amp"), window=window or "", say=say, **settings)
    if not found.columns:  # only the main process of a distributed run prints the predictions
        return 0
    suffix = output.suffix.lstrip(".").lower() if output else ""
    done = failed = marked = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal done, failed, marked
        for row in found.rows:
            if row["unit"] in found.counted:  # the row of an image, not of a CT's mean
                done += 1
                progress(done, found.images)
                marked += bool("unusual" in found.columns and row["unusual"])
                if row["error"]:
                    failed += 1
                    say(f"Error: {row['error']}")
            yield row

    with output_file(output, overwrite) as file, progress_bar("Predicting") as progress:
        write_rows(rows(), found.columns, style or (suffix if suffix in FORMATS else "table"), file)
    if marked:
        say(f"Warning: images unlike the training images (column unusual): {marked} of {found.images}")
    elif done > failed and settings["gate"] is None and "unusual" not in found.columns and "image" in found.counted:
        say('There is no column "unusual", because this model cannot detect images unlike its training images.')
    for problem in found.problems:
        say(f"Error: {problem}")
    if failed:
        say(f"Error: {failed} of {found.images} images could not be read")
    return int(bool(failed or found.problems))
