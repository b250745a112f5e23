"""The steps of a job whose labels are those of bags of pictures, where they differ from those of single pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cvrnet.data import DataError, ImageCache, Record
from cvrnet.data.data_set import DataPath
from cvrnet.data.studies import Study, group_studies, pictures_of
from cvrnet.errors import UserError
from cvrnet.inference.bag_features import answer_frozen
from cvrnet.inference.frozen_features import FrozenFeatures
from cvrnet.runs.attention import attention_of, score_attention, write_attention
from cvrnet.training import TrainConfig


def with_studies(
    records: Sequence[Record],
    problems: Sequence[str],
    cache: ImageCache,
    config: TrainConfig,
    data: DataPath,
    say: Callable[[str], object],
) -> tuple[list[Any], TrainConfig, list[str]]:
    """The bags that the readable pictures make, the config that fits them, and a line for all that is left out.

    ``problems`` are those of the pictures. ``say`` is called with each line.

    Raises:
        DataError: No bag is left.
        UserError: See `group_studies`; or the encoders are not frozen.
    """
    if config.freeze != "all":
        raise UserError(f"--unit {config.unit} needs --freeze all: bags are trained on frozen encoders")
    every, _ = group_studies(records, config.unit)
    studies, wrong = group_studies([r for r in records if cache.has(r.path)], config.unit)
    left = {study.name for study in studies}
    nothing = [
        f"{config.unit} {study.name}: none of its {len(study.pictures)} pictures can be read: left out"
        for study in every
        if study.name not in left and not any(cache.has(p.path) for p in study.pictures)
    ]
    left_out = [*problems, *wrong, *nothing]
    if not studies:
        raise DataError(left_out, data)
    for line in left_out:
        say(f"Warning: {line}")
    timed = config.time and any(day for study in studies for day in study.days)
    sizes = [len(study.pictures) for study in studies]
    say(
        f"{len(studies):,} bags ({config.unit}) of {min(sizes)} to {max(sizes)} pictures, {sum(sizes):,} together; "
        + ("the days of the pictures count" if timed else "the order of the pictures does not count")
    )
    return list(studies), replace(config, time=timed), left_out


def add_attention(
    model: Any, features: FrozenFeatures, sets: Mapping[str, Sequence[Any]], folder: Path
) -> dict[str, dict[str, Any]]:
    """Write attention.csv for the bags of all sets except ``train``; returns a further score of each set."""
    found, scores = [], {}
    for part, studies in sets.items():
        if part != "train":
            mine = attention_of(studies, answer_frozen(model, features, studies).shares, part)
            scores[part] = {"attention": score_attention(mine)}
            found += mine
    write_attention(folder, found)
    return scores


def one_picture_each(records: Sequence[Record]) -> list[Record]:
    """The middle picture of each bag, for an audit, which is about single pictures; other records as they are."""
    return [r.pictures[len(r.pictures) // 2] if isinstance(r, Study) else r for r in records]


def describe_bags(records: Sequence[Record], unit: str, left_out: Sequence[str]) -> dict[str, Any]:
    """The keys that run.json has for bags alone."""
    return {"unit": unit, "pictures": len(pictures_of(records)), "left_out": list(left_out)}
