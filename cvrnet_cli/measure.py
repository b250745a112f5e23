"""``cvrnet explain --measure``: the maps' scores as files and tables."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cvrnet_cli.output import progress_bar, say, write_rows

SUMMARY, IMAGES = "localisation.json", "localisation.csv"


def measure_data(
    model: str,
    data: Path,
    output: Path,
    *,
    target: str | None,
    threshold: float,
    out_of_fold: bool,
    seed: int,
    style: str,
    batch_size: int,
    device: str,
    amp: str,
    overwrite: bool,
) -> int:
    """Score MODEL's maps on a data set with masks; write localisation.json and localisation.csv, and print tables."""
    from cvrnet.data import read_records
    from cvrnet.explain.measuring import Measurements, measure, summarise
    from cvrnet.files import write_csv, write_json
    from cvrnet.inference import Predictor

    for name in (SUMMARY, IMAGES):
        if (output / name).exists() and not overwrite:
            raise click.ClickException(f"{output / name} exists; --overwrite replaces it")
    records = read_records(data, labelled=False)
    masked = [r for r in records if r.lung_mask or r.lesion_mask]
    if not masked:
        raise click.ClickException(f"{data}: no image has a lung_mask or lesion_mask; --measure needs some")
    work = list(_by_fold(Path(model), masked) if out_of_fold else [(model, masked)])
    found = Measurements()
    for one, some in work:
        predictor = Predictor.from_pretrained(one, device=device, dtype=amp)
        with progress_bar(f"Measuring {Path(one).name}", unit="map") as progress:
            part = measure(
                predictor,
                some,
                target=target,
                threshold=threshold,
                batch_size=batch_size,
                seed=seed,
                progress=progress,
            )
        found.rows += part.rows
        found.similar += part.similar
        found.problems += part.problems
    correct = Measurements(
        [r for r in found.rows if r["prediction"] == r["label"]],
        [r for r in found.similar if r["prediction"] == r["label"]],
    )
    everything = summarise(found)
    result = {
        "model": model,
        "data": str(data),
        "class": target or "predicted",
        "out_of_fold": out_of_fold,
        "threshold": threshold,
        "seed": seed,
        "images_with_masks": len(masked),
        "images_measured": len({row["path"] for row in found.rows}),
        "problems": found.problems,
        "all": everything,
        "correct": summarise(correct),
    }
    write_csv(output / IMAGES, (_csv_row(row) for row in found.rows))
    write_json(output / SUMMARY, result)
    _print(everything, style)
    measured = sum(len(some) for _, some in work)
    if measured < len(masked):
        say(f"{len(masked) - measured} images with masks are in no finished fold's test set and were left out")
    for problem in found.problems:
        say(f"Error: {problem}")
    say(f"\n{SUMMARY} (also of the correct predictions alone) and {IMAGES} are in {output}")
    return 1 if found.problems else 0


def _by_fold(run: Path, records: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Each fold of a cross-validation with the images that it was tested on."""
    from cvrnet.runs.checkpoint import find_checkpoints
    from cvrnet.runs.read import read_rows

    if not (run / "split.csv").is_file():
        raise click.ClickException(f"{run} has no split.csv; --out-of-fold expects the run of `cvrnet crossval`")
    fold_of = {row["path"]: row["fold"] for row in read_rows(run / "split.csv")}
    used = 0
    for folder in find_checkpoints(run):
        number = re.fullmatch(r"fold-(\d+)", folder.name)
        tested = [r for r in records if number and fold_of.get(r.name) == number[1]]
        if tested and (folder / "metrics.json").is_file():  # otherwise it is still being trained
            used += 1
            yield str(folder), tested
    if not used:
        raise click.ClickException(f"no fold of {run} is finished and was tested on an image that has a mask")


def _csv_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _print(summary: Mapping[str, Sequence[Mapping[str, Any]]], style: str) -> None:
    rows = [
        {
            **{key: row[key] for key in ("part", "mask", "measure", "images", "flat", "mean")},
            **dict(zip(("low", "high"), row["interval"] or (None, None), strict=True)),
            "chance": row["chance"],
            "random": row["random"],
        }
        for row in summary["localisation"]
    ]
    if rows:
        write_rows(rows, list(rows[0]), style, sys.stdout)
    if style == "table":
        click.echo("\nRank correlation of the trained network's maps with those of")
        columns = ["part", "weights", "images", "flat", "rank_correlation", "low", "high"]
        similar = [
            {**row, **dict(zip(("low", "high"), row["interval"] or (None, None), strict=True))}
            for row in summary["similarity"]
        ]
        write_rows(similar, columns, style, sys.stdout)
