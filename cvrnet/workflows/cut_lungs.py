"""Mask the pictures of a job with their lung masks, or crop them to the lungs; report which pictures stay whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cvrnet.data import ImageCache, Preprocessing, Record
from cvrnet.data.lung_finder import LungFinder, whole_sentence
from cvrnet.inference import Predictor
from cvrnet.lungs.attach import make_finder
from cvrnet.runs.layout import SEGMENTER
from cvrnet.training import TrainConfig

SHOWN = 5  # pictures that a message lists


def lung_finder(records: Sequence[Record], config: TrainConfig, cache_folder: str | Path | None) -> LungFinder | None:
    """Return the lung finder that masks or crops a job's images (see `make_finder`); None if images stay whole."""
    if not config.lungs:
        return None
    return make_finder(records, config.lungs, config.lungs_margin, config.segmenter, cache_folder or "")


def count_lungs(
    cache: ImageCache, records: Sequence[Record], config: TrainConfig, say: Callable[[str], object]
) -> dict[str, Any]:
    """Count the images that are masked or cropped, and list the images that are used whole, with the reason.

    ``say`` is called with a summary, and with a line for each of the first images that are used whole.

    Returns:
        A dictionary: ``given``, the number of images with a mask from the data set; ``found``, the number of images
        with a mask from the segmenter; ``whole``, a line for each image that is used whole. ``{}`` if the config has no
        ``lungs``.
    """
    finder = cache.lungs
    if finder is None:
        return {}
    channels = 1 if cache.mode == "L" else 3
    reader = Preprocessing(
        (channels, *cache.size), (0.0,) * channels, (1.0,) * channels, any_body_part=config.any_body_part
    )
    counts: Counter[str] = Counter()
    whole = []
    for record in records:
        found = finder.check(record.path, partial(reader.read_whole, record.path))
        if found.problem:
            whole.append(record.problem(found.problem))
        else:
            counts["given" if found.given else "found"] += 1
    say(whole_sentence(len(whole), len(records), f"--lungs {config.lungs}"))
    for line in whole[:SHOWN]:
        say(f"  {line}")
    if len(whole) > SHOWN:
        say(f"  and {len(whole) - SHOWN:,} more, which run.json lists")
    return {"given": counts["given"], "found": counts["found"], "whole": whole}


def lungs_used(
    predictor: Predictor, records: Sequence[Record], say: Callable[[str], object]
) -> dict[str, dict[str, list[str]]]:
    """Return run.json's entry ``lungs``: a line for each picture used whole; ``{}`` if the model needs no masks."""
    lungs, whole = predictor.preprocessing.lungs, predictor.whole_pictures()
    if lungs is None:
        return {}
    lines = [record.problem(whole[record.path]) for record in records if record.path in whole]
    say(whole_sentence(len(lines), len(records), f"--lungs {lungs.mode}"))
    return {"lungs": {"whole": lines}}


def save_segmenter(folder: Path, finder: LungFinder | None) -> None:
    """Write the segmenter beside a model's weights, so that prediction finds the lungs in the same way."""
    if finder is not None and finder.segmenter is not None:
        segmenter: Any = finder.segmenter
        segmenter.save(folder / SEGMENTER)
