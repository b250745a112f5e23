"""Read and write baselines.csv: scores that predict an event without the network, or from one radiograph alone."""

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
"""Columns of baselines.csv: the model's probability for the first and for the last radiograph (film) alone, the number
of radiographs, and the view of the last radiograph: AP (1), PA (0), other (0.5). A higher score means that the event is
more probable."""
SCORES = (FIRST, LAST, COUNT, VIEW)
Answer = Callable[[Sequence[Study]], Sequence[float]]


@dataclass(frozen=True)
class Baselines:
    """Scores to compare the network with, such as the number of films: a value of each score for N images or bags.

    A score that cannot be calculated is None.
    """

    names: list[str]  #: the names of the images or bags
    scores: Mapping[str, list[float] | None]  #: each of `SCORES` -> its N values

    @classmethod
    def of_bags(cls, bags: Sequence[Study], answer: Answer) -> Baselines:
        """Calculate the scores of bags.

        ``answer`` returns the model's probability of the event for each bag that it gets. It is called twice: with
        bags that keep only their first film, and with bags that keep only their last film.

        If any film of any bag has no day, the first and the last films are not known. Then ``answer`` is not called,
        and the ``view_ap`` of each bag is the highest value of its films: 1 if any of them is AP.
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
        """Calculate the scores of single films, from the model's probability of the event for each readable film.

        ``last_film`` is None, because on the day when a film is taken, it is the patient's last film so far: this score
        would always equal the model's own score for the film.
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
    """Return a sorting key: by day, then by name."""
    return day_of(film) or 0.0, film.name


def _dated(films: Sequence[Record]) -> bool:
    return all(day_of(film) is not None for film in films)


def _alone(bag: Study, which: Callable[..., Record]) -> Study:
    """Return the bag with only its first (``min``) or last (``max``) film."""
    chosen = which(bag.pictures, key=_order)
    return bag.keep([film is chosen for film in bag.pictures])


def _views(films: Sequence[Sequence[Record]]) -> list[float] | None:
    """Return the largest `view_score` of each group of films; None if this is 0.5 (not AP or PA) for every group."""
    found = [max(view_score(film.view) for film in group) for group in films]
    return None if {*found} <= {0.5} else found


def write_baselines(folder: Path, sets: Mapping[str, Baselines]) -> None:
    """Write baselines.csv: a row for each image or bag, with its set; an unknown score is an empty cell."""

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
    """Read the scores of the images or bags in ``names`` from one or more folders: column -> values.

    Only the columns with a value for every image or bag in ``names`` are returned.
    """
    found: dict[str, dict[str, float]] = {}
    for folder in folders:
        rows = read_rows(folder / BASELINES, ("path", "split", *SCORES))
        with damaged_files(folder / BASELINES):
            for row in rows:
                if row["split"] == split:
                    found[row["path"]] = {key: float(row[key]) for key in SCORES if row[key]}
    known = [key for key in SCORES if all(key in found.get(name, {}) for name in names)]
    return {key: [found[name][key] for name in names] for key in known}
