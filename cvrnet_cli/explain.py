"""``cvrnet explain``."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli import options
from cvrnet_cli.measure import measure_data
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
    help="Of the map's maximum: what is shown.",
)
@click.option("--encoder", "encoders", multiple=True, metavar="NAME", help="Overlay of this encoder (also: 1, 2).")
@click.option("--head", "heads", multiple=True, type=click.IntRange(1), metavar="K", help="Overlay of head PK.")
@click.option("--all", "everything", is_flag=True, help="Overlays of the whole network, every encoder and every head.")
@click.option("--raw", is_flag=True, help="Each overlay's map as .npy too: float32 in 0..1, the image's size.")
@click.option(
    "--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Opacity of the overlay's colour."
)
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
    alpha: float,
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
    if measure:
        if len(paths) != 1 or encoders or heads or everything or raw:
            raise click.UsageError("--measure takes one data set and scores every part; expected no other choice")
        return measure_data(
            model,
            Path(paths[0]),
            output,
            target=target,
            threshold=threshold,
            out_of_fold=out_of_fold,
            seed=seed or 0,
            style=style or "table",
            batch_size=batch_size or 8,
            device=device or "auto",
            amp=amp or "auto",
            overwrite=overwrite,
        )
    if out_of_fold:
        raise click.UsageError("--out-of-fold goes with --measure")
    from cvrnet.explain import available_parts
    from cvrnet.explain import explain as explain_files
    from cvrnet.inference import Predictor
    from cvrnet.inference.find_images import find_images

    files = list(dict.fromkeys(find_images(paths)))
    names = output_names(files)
    if (output / ROWS).exists() and not overwrite:
        raise click.ClickException(f"{output / ROWS} exists; --overwrite replaces it")
    predictor = Predictor.from_pretrained(model, device=device or "auto", dtype=amp or "auto")
    parts = available_parts(predictor)
    chosen = parts if everything else choose_parts(parts, encoders, heads)
    targets = [output / f"{name}-{slug(part)}.png" for name in names for part in chosen]
    if not overwrite and (there := next((file for file in targets if file.exists()), None)):
        raise click.ClickException(f"{there} exists; --overwrite replaces it")
    panels = [part for part in parts if everything or not re.fullmatch(r"P\d+", part)]
    wanted = list(dict.fromkeys([*panels, *chosen]))
    stream = explain_files(predictor, files, target=target, parts=wanted, batch_size=batch_size or 8)
    rows = []
    with progress_bar("Explaining") as progress:
        for row in _draw(stream, names, output, panels, chosen, raw, threshold, alpha):
            rows.append(row)
            progress(len(rows), len(files))
    from cvrnet.files import write_csv

    columns = list(rows[0]) if rows else []
    write_csv(output / ROWS, rows, columns)
    write_rows(rows, columns, style or "table", sys.stdout)
    failed = sum(bool(row["error"]) for row in rows)
    folds = len(predictor.models)
    say(f"\n{output}: " + (f"mean of the maps of {folds} folds" if folds > 1 else "maps of one model"))
    if failed:
        say(f"Error: {failed} of {len(rows)} images could not be read or have a map that shows nothing")
    return 1 if failed else 0


def _draw(
    stream: Iterator[Any],
    names: Sequence[str],
    output: Path,
    panels: Sequence[str],
    chosen: Sequence[str],
    raw: bool,
    threshold: float,
    alpha: float,
) -> Iterator[dict[str, Any]]:
    """Write each image's files, and give its row."""
    from cvrnet.explain.figure import plot_explanation
    from cvrnet.explain.files import save_map, save_overlay
    from cvrnet.figures import save_figure

    for name, explanation in zip(names, stream, strict=True):
        row: dict[str, Any] = {"path": str(explanation.path), "prediction": explanation.prediction}
        row |= {"class": explanation.target, "probability": None, "figure": None, **dict.fromkeys(chosen)}
        problems = [explanation.error] if explanation.error else []
        if not problems:
            row |= {"probability": explanation.probability, "figure": f"{name}-figure.png"}
            figure = plot_explanation(explanation, panels, threshold=threshold, alpha=alpha)
            save_figure(figure, output / row["figure"])
            for part in chosen:
                if part in explanation.refused:
                    problems.append(f"{explanation.path}: {part}: {explanation.refused[part]}")
                    continue
                row[part] = f"{name}-{slug(part)}.png"
                save_overlay(explanation, part, output / row[part], threshold=threshold, alpha=alpha)
                if raw:
                    save_map(explanation, part, (output / row[part]).with_suffix(".npy"))
        for problem in problems:
            say(f"Error: {problem}")
        yield row | {"error": "; ".join(problems)}


def choose_parts(parts: Sequence[str], encoders: Sequence[str], heads: Sequence[int]) -> list[str]:
    """What the options mean: the whole network where nothing is chosen."""
    known = [part for part in parts if not re.fullmatch(r"network|P\d+", part)]
    chosen = []
    for name in encoders:
        number = int(name) if name.isdigit() else 0
        if name not in known and not 1 <= number <= len(known):
            expected = f"one of {', '.join(known)}" if known else "none: it is no CVR-Net"
            raise click.ClickException(f"the model has no encoder {name!r}; expected {expected}")
        chosen.append(name if name in known else known[number - 1])
    for head in heads:
        if f"P{head}" not in parts:
            count = len(parts) - len(known) - 1
            raise click.ClickException(f"the model has no head {head}; it has {count or 'none: it is no CVR-Net'}")
        chosen.append(f"P{head}")
    return list(dict.fromkeys(chosen)) or ["network"]


def output_names(files: Sequence[Path]) -> list[str]:
    """A name for each file's results: its path below the files' common folder, with the suffix only where needed."""
    absolute = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([file.parent for file in absolute]) if files else ""
    short = [file.relative_to(root).with_suffix("") for file in absolute]
    count = Counter(short)
    return [
        (name if count[name] == 1 else file.relative_to(root)).as_posix()
        for name, file in zip(short, absolute, strict=True)
    ]


def slug(part: str) -> str:
    """A part's name as it can stand in a file's."""
    return re.sub(r"[^\w.-]+", "-", part).strip("-")
