"""The steps of a job that are different if its model predicts bags (all pictures of a study or patient)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cvrnet.data import DataError, ImageCache, Record, scan_records
from cvrnet.data.data_set import DataPath
from cvrnet.data.studies import Study, group_studies, pictures_of
from cvrnet.data.volumes import expand_volumes
from cvrnet.errors import UserError
from cvrnet.inference import Predictor
from cvrnet.inference.bag_features import BagAnswers
from cvrnet.inference.study_predictor import StudyPredictor
from cvrnet.runs.attention import StudyAttention, attention_of, score_attention, write_attention
from cvrnet.training import TrainConfig

#: Largest number of pictures in a bag if the encoders are trained, because all images and maps stay in memory.
MOST_TUNED = 32


def with_studies(
    records: Sequence[Record],
    problems: Sequence[str],
    cache: ImageCache,
    config: TrainConfig,
    data: DataPath,
    say: Callable[[str], object],
) -> tuple[list[Any], TrainConfig, list[str]]:
    """Return the bags of readable pictures, the config, and a line for each picture or bag left out.

    In the config, ``time`` is set to False if no bag has pictures of different days, for example because the days are
    not known. ``problems`` are lines about pictures that cannot be used; they are returned, too. ``say`` is called
    with each returned line and, last, with a line about the size of the bags.

    Raises:
        DataError: No bag is left.
        UserError: ``freeze`` is neither "all" nor 0, a bag is too large to train the encoders, or `group_studies`
            fails.
    """
    if config.freeze not in ("all", 0):
        raise UserError(f"--unit {config.unit} with --freeze {config.freeze}; expected --freeze all or --freeze 0")
    grouped, wrong = group_studies(records, config.unit) if records else ([], [])
    readable = [[cache.has(picture.path) for picture in study.pictures] for study in grouped]
    studies = [study.keep(kept) for study, kept in zip(grouped, readable, strict=True) if any(kept)]
    nothing = [
        f"{config.unit} {study.name}: left out, because no picture can be read ({len(study.pictures)} tried)"
        for study, kept in zip(grouped, readable, strict=True)
        if not any(kept)
    ]
    left_out = [*problems, *wrong, *nothing]
    if not studies:
        raise DataError(left_out, data)
    if config.freeze == 0 and (largest := max(len(study.pictures) for study in studies)) > MOST_TUNED:
        raise UserError(
            f"a bag has {largest} pictures; without --freeze all, expected at most {MOST_TUNED}; add --freeze all or, "
            "for volumes, reduce --slices"
        )
    for line in left_out:
        say(f"Warning: {line}")
    timed = config.time and any(day for study in studies for day in study.days)
    sizes = [len(study.pictures) for study in studies]
    say(
        f"{len(studies):,} bags ({config.unit}) of {min(sizes)} to {max(sizes)} pictures, {sum(sizes):,} in all; "
        + ("the days of the pictures are used" if timed else "the order of the pictures is not used")
    )
    return list(studies), replace(config, time=timed), left_out


Answer = Callable[[Sequence[Any]], BagAnswers]


def add_attention(answer: Answer, sets: Mapping[str, Sequence[Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Write attention.csv for the bags of all sets except ``train``.

    Return, for each of these sets, how well the attention finds the pictures with a lesion (see `score_attention`).
    ``answer`` returns the predictions for bags, and each picture's share in the prediction for its bag.
    """
    found, scores = [], {}
    for part, studies in sets.items():
        if part != "train":
            mine = attention_of(studies, answer(studies).shares, part)
            scores[part] = {"attention": score_attention(mine)}
            found += mine
    write_attention(folder, found)
    return scores


def read_studies(
    predictor: Predictor, data: DataPath, say: Callable[[str], object], films: Sequence[Record] | None = None
) -> list[Study]:
    """Return the bags of a data set for a trained model; ``say`` gets a line for each unusable picture or bag.

    ``films`` are the data set's labelled pictures, if they have already been read.

    Raises:
        DataError: The data set cannot be used, or none of its bags can be used.
        UserError: See `group_studies` and `StudyPredictor.check`.
    """
    left_out: list[str] = []
    if films is None:
        records, problems = scan_records(data, min_classes=1, volumes=True, say=say)
        films, further = expand_volumes(records, predictor.preprocessing.slices)
        left_out = [*problems, *further]
    studies, wrong = group_studies(films, predictor.unit)
    left_out += wrong
    if not studies:
        raise DataError(left_out or ["no images"], data)
    StudyPredictor(predictor).check(studies)
    for line in left_out:
        say(f"Warning: {line}")
    return studies


def predict_studies(
    predictor: Predictor, studies: Sequence[Any], batch_size: int, progress: Callable[[int, int], object]
) -> tuple[tuple[Any, ...], list[StudyAttention]]:
    """Predict bags; return the arguments of ``PredictionTable.from_records``, and the attention of the bags."""
    found = []
    stream = StudyPredictor(predictor).stream(studies, batch_size=batch_size, heads=predictor.averages_probabilities)
    for done, answer in enumerate(stream, start=1):
        found.append(answer)
        progress(done, len(studies))
    fine = [answer for answer in found if not answer.prediction.error]
    errors = [answer.prediction.error for answer in found if answer.prediction.error]
    table = np.array([a.prediction.probabilities for a in fine]).reshape(-1, len(predictor.classes))
    by_head = [a.prediction.heads for a in fine if a.prediction.heads is not None]
    problems = [*(line for answer in found for line in answer.problems), *errors]
    kept = [answer.study for answer in fine]
    arguments = (kept, predictor.classes, table, np.stack(by_head, 1) if by_head else None, problems)
    return arguments, attention_of(kept, [answer.shares for answer in fine], "test")


def one_picture_each(records: Sequence[Record]) -> list[Record]:
    """Replace each bag by its middle picture, because an audit is about single pictures; other records stay."""
    return [r.pictures[len(r.pictures) // 2] if isinstance(r, Study) else r for r in records]


def describe_bags(records: Sequence[Record], unit: str, pooling: str) -> dict[str, Any]:
    """Return the keys that run.json has only in a job with bags."""
    return {"unit": unit, "pooling": pooling, "pictures": len(pictures_of(records))}
