"""``cvrnet explain``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.output import progress_bar, say, write_rows

ROWS = "explanations.csv"


@click.command(short_help="Grad-CAM: where the network looked, drawn and measured.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@options.output_folder(required=True, help_text="Pictures and explanations.csv go here.")
@click.option("--target", metavar="CLASS", help="Class to explain.  [default: the predicted one]")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Share of the map's maximum from which it is coloured.",
)
@click.option("--encoder", "encoders", multiple=True, metavar="NAME", help="Overlay of this encoder (also: 1, 2).")
@click.option("--head", "heads", multiple=True, type=click.IntRange(1), metavar="K", help="Overlay of head PK.")
@click.option("--all", "everything", is_flag=True, help="Overlays of the whole network, every encoder and every head.")
@click.option("--raw", is_flag=True, help="Each overlay's map as .npy too: float32 in 0..1, the image's size.")
@click.option("--measure", is_flag=True, help="Instead of drawing, score the maps against the data's masks.")
@click.option(
    "--out-of-fold", is_flag=True, help="With --measure and a crossval run: each image by the fold that tested it."
)
@options.seed
@options.style
@options.batch_size
@options.device
@options.amp
@options.overwrite
def explain(
    model: str,
    paths: tuple[str, ...],
    output: Path,
    target: str | None,
    threshold: float,
    encoders: tuple[str, ...],
    heads: tuple[int, ...],
    everything: bool,
    raw: bool,
    measure: bool,
    out_of_fold: bool,
    seed: int | None,
    style: str | None,
    batch_size: int | None,
    device: str | None,
    amp: str | None,
    overwrite: bool,
) -> int:
    """Draw where MODEL looked in the images at PATH...: files, folders, CSV manifests, or quoted patterns.

    MODEL is a run folder (the mean of its folds' maps), a fold folder, local-dir:FOLDER or hf-hub:user/repo[@rev].
    Each image gets an overlay of its own size and a figure: input, whole network, each encoder (and, with --all, each
    head). A map that is zero or flat is not drawn, but named. Exit status 1 when an image cannot be read or an
    overlay cannot be drawn.

    With --measure, PATH is one data set with lung_mask or lesion_mask columns: how much of each map lies inside them,
    against chance and against a network with random weights.

    \b
    Examples:
      cvrnet explain run chest.png -o maps
      cvrnet explain run images/ -o maps --target CVP --all --raw
      cvrnet explain run manifest.csv -o localisation --measure
    """
    if model.lower().endswith(".onnx"):
        raise click.ClickException(
            f"{model}: an ONNX file has no gradients, which Grad-CAM needs; give the run that it was exported from"
        )
    if out_of_fold and not measure:
        raise click.UsageError("--out-of-fold goes with --measure")
    if measure and (len(paths) != 1 or encoders or heads or everything or raw):
        raise click.UsageError("--measure takes one data set and scores every part; expected no other choice")
    shared: dict[str, Any] = {"target": target, "threshold": threshold}
    shared |= {"batch_size": batch_size or 8, "overwrite": overwrite}
    where: dict[str, Any] = {"device": device or "auto", "dtype": amp or "auto"}
    if measure:
        shared |= {"out_of_fold": out_of_fold, "seed": seed or 0, **where}
        return _measure(model, Path(paths[0]), output, style or "table", shared)
    from cvrnet.inference import Predictor
    from cvrnet.inference.find_images import find_images

    files = list(dict.fromkeys(find_images(paths)))
    if (output / ROWS).exists() and not overwrite:
        raise click.ClickException(f"{output / ROWS} exists; --overwrite replaces it")
    predictor = Predictor.from_pretrained(model, **where)
    shared |= choose_parts(predictor, encoders, heads, everything) | {"raw": raw}
    return _draw(predictor, files, output, style or "table", shared)


def _draw(predictor: Any, files: Sequence[Path], output: Path, style: str, settings: dict[str, Any]) -> int:
    """Draw the maps, write and print a row for each image, and give the exit status."""
    from cvrnet.explain.pictures import draw_images
    from cvrnet.files import write_csv

    rows = []
    with progress_bar("Explaining") as progress:
        for row, problems in draw_images(predictor, files, output, **settings):
            for problem in problems:
                say(f"Error: {problem}")
            rows.append(row | {"error": "; ".join(problems)})
            progress(len(rows), len(files))
    columns = list(rows[0]) if rows else []
    write_csv(output / ROWS, rows, columns)
    write_rows(rows, columns, style, sys.stdout)
    folds = len(predictor.models)
    say(f"\n{output}: " + (f"mean of the maps of {folds} folds" if folds > 1 else "maps of one model"))
    failed = sum(bool(row["error"]) for row in rows)
    if failed:
        say(f"Error: {failed} of {len(rows)} images could not be read or have a map that shows nothing")
    return int(failed > 0)


def choose_parts(
    predictor: Any, encoders: Sequence[str], heads: Sequence[int], everything: bool
) -> dict[str, Sequence[str]]:
    """The parts that get an overlay, the whole network if none is chosen, and those that the figure shows."""
    from cvrnet.explain import NETWORK, available_parts

    parts = available_parts(predictor)
    if everything:
        return {"overlays": parts, "panels": parts}
    panels = [part for part in parts if not re.fullmatch(r"P\d+", part)]
    known, chosen = [part for part in panels if part != NETWORK], []
    for name in encoders:
        number = int(name) if name.isdigit() else 0
        if name not in known and not 1 <= number <= len(known):
            expected = f"one of {', '.join(known)}" if known else "none: it is no CVR-Net"
            raise click.ClickException(f"the model has no encoder {name!r}; expected {expected}")
        chosen.append(name if name in known else known[number - 1])
    for head in heads:
        if f"P{head}" not in parts:
            count = len(parts) - len(panels)
            raise click.ClickException(f"the model has no head {head}; it has {count or 'none: it is no CVR-Net'}")
        chosen.append(f"P{head}")
    return {"overlays": list(dict.fromkeys(chosen)) or [NETWORK], "panels": panels}


def _measure(model: str, data: Path, output: Path, style: str, settings: dict[str, Any]) -> int:
    """Measure the maps, print the tables, and give the exit status."""
    from cvrnet.explain.measure_data import IMAGES, SUMMARY, measure_data

    with progress_bar(f"Measuring {Path(model).name}", unit="map") as progress:
        summary, left_out = measure_data(model, data, output, progress=progress, **settings)
    columns = ["part", "mask", "measure", "images", "flat", "mean", "low", "high", "chance", "random"]
    if rows := summary["all"]["localisation"]:
        write_rows(map(_with_limits, rows), columns, style, sys.stdout)
    if style == "table":
        click.echo("\nRank correlation of the trained network's maps with those of")
        columns = ["part", "weights", "images", "flat", "rank_correlation", "low", "high"]
        write_rows(map(_with_limits, summary["all"]["similarity"]), columns, style, sys.stdout)
    if left_out:
        say(f"{left_out} images with masks are in no finished fold's test set and were left out")
    for problem in summary["problems"]:
        say(f"Error: {problem}")
    say(f"\n{SUMMARY} (also of the correct predictions alone) and {IMAGES} are in {output}")
    return int(bool(summary["problems"]))


def _with_limits(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["interval"] or (None, None)
    return {**row, "low": low, "high": high}
