"""baselines.csv: what foretells an event without the network, or from one film alone, for each image or bag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvrnet.data.outcomes import view_score
from cvrnet.data.record import Record
from cvrnet.data.splits import patient_key
from cvrnet.data.studies import Study, day_of
from cvrnet.files import damaged_files, write_csv
from cvrnet.runs.layout import BASELINES
from cvrnet.runs.read import read_rows

FIRST, LAST, COUNT, VIEW = "first_film", "last_film", "films", "view_ap"
"""Columns of baselines.csv: the model's probability for the first and for the last film alone, the number of films, and
whether the last one is AP (1), PA (0), or something else (0.5). Higher means that the event is more probable."""
SCORES = (FIRST, LAST, COUNT, VIEW)
Answer = Callable[[Sequence[Study]], Sequence[float]]


@dataclass(frozen=True)
class Baselines:
    """The scores of N images or bags; ``None`` in place of scores that cannot be known."""

    names: list[str]
    scores: Mapping[str, list[float] | None]  #: for each of `SCORES`

    @classmethod
    def of_bags(cls, bags: Sequence[Study], answer: Answer) -> Baselines:
        """The scores of bags of films; ``answer`` gives the model's probability of the event for bags of one film.

        Without days, the first and the last film are not known, and one AP film makes ``view_ap`` 1.
        """
        scores: dict[str, list[float] | None] = dict.fromkeys(SCORES)
        scores[COUNT] = [float(len(bag.pictures)) for bag in bags]
        dated = _dated([film for bag in bags for film in bag.pictures])
        if dated:
            scores[FIRST] = list(answer([_alone(bag, min) for bag in bags]))
            scores[LAST] = list(answer([_alone(bag, max) for bag in bags]))
        films = [_alone(bag, max).pictures if dated else bag.pictures for bag in bags]
        return cls([bag.name for bag in bags], {**scores, VIEW: _views(films)})

    @classmethod
    def of_films(cls, films: Sequence[Record], probabilities: Mapping[str, float]) -> Baselines:
        """The scores of single films, by the model's probability of the event for each that it could read.

        A film is the last of those that its patient has until its day, so that ``last_film`` would be the model itself.
        """
        films = [film for film in films if film.name in probabilities]
        scores: dict[str, list[float] | None] = dict.fromkeys(SCORES)
        if _dated(films):
            patients: dict[str, list[Record]] = {}
            for film in films:
                patients.setdefault(_patient(film), []).append(film)
            first = {patient: min(mine, key=_order).name for patient, mine in patients.items()}
            scores[FIRST] = [probabilities[first[_patient(film)]] for film in films]
            days = {patient: [_order(film)[0] for film in mine] for patient, mine in patients.items()}
            scores[COUNT] = [float(sum(day <= _order(film)[0] for day in days[_patient(film)])) for film in films]
        return cls([film.name for film in films], {**scores, VIEW: _views([[film] for film in films])})


def _patient(film: Record) -> str:
    return patient_key(film.patient_id, film.name)


def _order(film: Record) -> tuple[float, str]:
    """By day; of films of one day, the name decides."""
    return day_of(film) or 0.0, film.name


def _dated(films: Sequence[Record]) -> bool:
    return all(day_of(film) is not None for film in films)


def _alone(bag: Study, which: Callable[..., Record]) -> Study:
    """The bag with its first (``min``) or last (``max``) film alone."""
    chosen = which(bag.pictures, key=_order)
    return bag.keep([film is chosen for film in bag.pictures])


def _views(films: Sequence[Sequence[Record]]) -> list[float] | None:
    """The largest `view_score` of each group of films; None if no view is named."""
    found = [max(view_score(film.view) for film in group) for group in films]
    return None if {*found} <= {0.5} else found


def write_baselines(folder: Path, sets: Mapping[str, Baselines]) -> None:
    """Write baselines.csv: a row for each image or bag, with its set; a score that is not known is empty."""

    def rows() -> Iterator[dict[str, Any]]:
        for split, table in sets.items():
            for i, name in enumerate(table.names):
                row: dict[str, Any] = {"path": name, "split": split}
                for key in SCORES:
                    values = table.scores[key]
                    row[key] = "" if values is None or math.isnan(values[i]) else repr(values[i])
                yield row

    write_csv(folder / BASELINES, rows())


def read_baselines(folders: Sequence[Path], split: str, names: Sequence[str]) -> dict[str, list[float]]:
    """The scores that are known of all these images or bags, from one or more folders."""
    found: dict[str, dict[str, float]] = {}
    for folder in folders:
        rows = read_rows(folder / BASELINES, ("path", "split", *SCORES))
        with damaged_files(folder / BASELINES):
            for row in rows:
                if row["split"] == split:
                    found[row["path"]] = {key: float(row[key]) for key in SCORES if row[key]}
    known = [key for key in SCORES if all(key in found.get(name, {}) for name in names)]
    return {key: [found[name][key] for name in names] for key in known}
