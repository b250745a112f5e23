"""``cvrnet explain``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import print_rows, progress_bar, say, tell


@click.command(short_help="Draw or measure Grad-CAM maps: where the network looked.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@options.manifest("paths")
@options.output("Folder for the pictures and explanations.csv.", required=True)
@click.option("--target", metavar="CLASS", help="Class to explain.  [default: the predicted class]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.6,
    help="Colour the pixels where the map is at least this share of its maximum.",
)
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="NAME",
    help="Draw an overlay of this encoder, given by name or number (1, 2).",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    type=click.IntRange(1),
    metavar="K",
    help="Draw an overlay of this head, given by number (3 for P3).",
)
@click.option(
    "--all", "everything", is_flag=True, help="Draw overlays of the whole network, of every encoder and of every head."
)
@click.option("--raw", is_flag=True, help="Also write each overlay's map as .npy: float32 (H, W) in 0..1.")
@click.option("--measure", is_flag=True, help="Instead of drawing, score the maps against the data's masks.")
@click.option(
    "--out-of-fold", is_flag=True, help="With --measure: explain each image with the model that was tested on it."
)
@options.seed
@options.style
@options.batch_size
@options.device
@options.amp
@options.any_body_part
@options.overwrite
def explain(
    model: str, paths: tuple[str, ...], output: Path, measure: bool, style: str, amp: str, **settings: Any
) -> int:
    """Draw Grad-CAM maps of MODEL for the images at PATH...: files, folders, CSV manifests, or quoted patterns.

    MODEL is a run folder (its folds' maps are averaged), a fold folder, local-dir:FOLDER or hf-hub:user/repo[@rev].
    Each image gets an overlay in the image's size, and a figure of the input and the maps of the whole network, of each
    encoder and, with --all, of each head. A map that is zero or flat is not drawn: the figure says why, and the command
    reports the missing overlay. The exit status is 1 if an image cannot be read or an overlay cannot be drawn.

    With --measure, PATH is one data set with lung masks, lesion masks or lesion boxes. The command reports how much of
    each map lies inside them, and compares that with chance and with a network that has random weights.

    \b
    Examples:
      cvrnet explain run chest.png -o maps
      cvrnet explain run images/ -o maps --target CVP --all --raw
      cvrnet explain run manifest.csv -o localisation --measure
    """
    if model.lower().endswith(".onnx"):
        raise click.ClickException(f"{model}: an ONNX file has no gradients; expected the run from which it was made")
    drawing = {name: settings.pop(name) for name in ("encoders", "heads", "everything", "raw")}
    measuring = {name: settings.pop(name) for name in ("out_of_fold", "seed")}
    if measuring["out_of_fold"] and not measure:
        raise click.UsageError("--out-of-fold needs --measure")
    if measure and (len(paths) != 1 or any(drawing.values())):
        raise click.UsageError("--measure needs one data set, and does not work with --encoder, --head, --all or --raw")
    settings["dtype"] = amp
    if measure:
        return _measure(model, paths[0], output, style, settings | measuring)
    return _draw(model, paths, output, style, settings | drawing)


def _draw(model: str, paths: Sequence[str], output: Path, style: str, settings: dict[str, Any]) -> int:
    """Draw the maps, print a row for each image, and return the exit status."""
    from cvrnet.explain.explain_paths import explain_paths

    problems: list[str] = []

    def on_problem(problem: str) -> None:
        problems.append(problem)
        say(f"Error: {problem}")

    with progress_bar("Explaining") as progress:
        rows, models = explain_paths(
            model, paths, output, progress=progress, on_problem=on_problem, say=say, **settings
        )
    print_rows(rows, style=style)
    say(f"\n{output}: " + (f"mean of the maps of {models} folds" if models > 1 else "maps of one model"))
    failed = sum(bool(row["error"]) for row in rows)
    if failed:
        say(f"Error: {failed} of {len(rows)} images could not be read, or a map could not be drawn")
    return int(bool(problems))


def _measure(model: str, data: str, output: Path, style: str, settings: dict[str, Any]) -> int:
    """Measure the maps, print the tables, and return the exit status."""
    from cvrnet.explain.measure_data import IMAGES, SUMMARY, measure_data

    with progress_bar(f"Measuring {Path(model).name}", unit="map") as progress:
        summary, left_out = measure_data(model, data, output, progress=progress, say=say, **settings)
    if rows := summary["all"]["localisation"]:
        columns = ["part", "mask", "measure", "images", "flat", "mean", "low", "high", "chance", "random"]
        print_rows([_with_limits(row) for row in rows], columns, style)
    if style == "table":
        tell("\nRank correlation of the trained network's maps with those of a network with random weights")
        columns = ["part", "weights", "images", "flat", "rank_correlation", "low", "high"]
        print_rows([_with_limits(row) for row in summary["all"]["similarity"]], columns)
    if left_out:
        say(f"Left out, because no finished fold tests them: {left_out} of the images with masks")
    for problem in summary["problems"]:
        say(f"Error: {problem}")
    say(f"\n{SUMMARY} (for all images, and for correct predictions only) and {IMAGES} are in {output}")
    return int(bool(summary["problems"]))


def _with_limits(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["interval"] or (None, None)
    return {**row, "low": low, "high": high}
