"""Read and write attention.csv: how much each picture of a bag (study or patient) counts in the bag's prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvrnet.data.studies import Study
from cvrnet.files import damaged_files, write_csv
from cvrnet.metrics.attention import attention_scores
from cvrnet.runs.layout import ATTENTION
from cvrnet.runs.read import read_rows

Shares = Sequence[NDArray[np.float64]]


@dataclass(frozen=True)
class StudyAttention:
    """The pictures of one bag, and each picture's share of the attention."""

    study: str  #: the bag's name
    split: str  #: the set that the bag is in
    paths: list[str]  #: paths of the pictures, as in the data set
    days: list[float]  #: days from each picture to the last picture
    shares: NDArray[np.float64]  #: each picture's share of the attention, as the mean over the heads, (pictures,)
    lesions: NDArray[np.bool_]  #: whether the data set marks a lesion in each picture, (pictures,)

    @property
    def order(self) -> list[int]:
        """The indices of the pictures, from the largest share to the smallest."""
        return [int(i) for i in np.argsort(-self.shares, kind="stable")]


def attention_of(studies: Sequence[Study], shares: Shares, split: str) -> list[StudyAttention]:
    """Return the attention of bags of the set ``split``; ``shares`` has an array (heads, pictures) for each bag."""
    return [
        StudyAttention(
            study.name,
            split,
            [picture.name for picture in study.pictures],
            list(study.days),
            share.mean(0),
            np.array([picture.has_lesion for picture in study.pictures]),
        )
        for study, share in zip(studies, shares, strict=True)
    ]


def write_attention(folder: Path, found: Sequence[StudyAttention]) -> dict[str, Any]:
    """Write attention.csv, with a row for each picture of the bags ``found``, and return the scores for metrics.json.

    The result is ``{"attention": scores}``, with the scores of `score_attention`. If ``found`` is empty, nothing is
    written, and the result is an empty dictionary.
    """
    if not found:
        return {}

    def rows() -> Iterator[dict[str, Any]]:
        for bag in found:
            for path, days, share, lesion in zip(bag.paths, bag.days, bag.shares, bag.lesions, strict=True):
                row: dict[str, Any] = {"study": bag.study, "path": path, "days_before_last": repr(float(days))}
                yield row | {"attention": repr(float(share)), "lesion": int(lesion), "split": bag.split}

    write_csv(folder / ATTENTION, rows())
    return {"attention": score_attention(found)}


def read_attention(folders: Sequence[Path], split: str) -> list[StudyAttention]:
    """Read the attention of the bags of one set, from one or more folders."""
    found = []
    for folder in folders:
        rows = [r for r in read_rows(folder / ATTENTION, ("study", "path", "split")) if r["split"] == split]
        bags: dict[str, list[Mapping[str, str]]] = {}
        for row in rows:
            bags.setdefault(row["study"], []).append(row)
        with damaged_files(folder / ATTENTION):
            for study, mine in bags.items():
                shares = np.array([float(row["attention"]) for row in mine])
                lesions = np.array([row["lesion"] == "1" for row in mine])
                days = [float(row["days_before_last"]) for row in mine]
                found.append(StudyAttention(study, split, [row["path"] for row in mine], days, shares, lesions))
    return found


def score_attention(found: Sequence[StudyAttention]) -> dict[str, float | int]:
    """Return the scores of `cvrnet.metrics.attention.attention_scores` for these bags."""
    return attention_scores([bag.shares for bag in found], [bag.lesions for bag in found])


def top_pictures(folders: Sequence[Path], split: str) -> dict[str, str]:
    """Return, for each bag, the path of the picture with the largest share of the attention: bag's name -> path."""
    return {bag.study: bag.paths[bag.order[0]] for bag in read_attention(folders, split)}
