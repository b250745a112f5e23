"""Label films with their patients' outcomes: whether an event, such as death, comes within a number of days.

**Time origin.** A prediction is made for a bag: one image or, if the model classifies studies or patients, all films
of one study or patient. It is made at one moment, and may use only what is known then (landmarking, van Houwelingen
2007, Scand J Stat 34:70). If `Outcome.until` is ``"admission"``, this moment is the admission, day 0, and films of day
0 or before are used. If it is ``"first"``, films of all days before the first event are used, and the moment is the day
of the bag's last film.

**At risk.** A patient who had the event on the day of the origin or before is no longer at risk, so there is nothing to
predict. If a film was taken on the day of the event, it is not known which of the two came first; the film counts as
taken after the event.

**Horizon.** A number of days after the origin. The label is ``yes`` if the event comes within these days, ``no``
otherwise; a censored bag (see `Course.label`) has no label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from cvrnet.data.cells import clean, is_missing
from cvrnet.data.record import Record
from cvrnet.data.splits import patient_key
from cvrnet.data.studies import DAY, STUDY, day_number, day_of
from cvrnet.errors import UserError
from cvrnet.text import printable

NO, YES = "no", "yes"  #: the labels
UNTIL = ("admission", "first")
DEATH, FOLLOWED = "death_day", "followup_day"
"""Columns of a manifest: the day of death, and the last day on which it is known whether the patient had the event."""
_WORDS = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
_SHOWN = 8  # a message names at most this many columns
Lines = list[str]


@dataclass(frozen=True)
class Outcome:
    """The event that a model predicts, such as admission to intensive care, and how the labels are made from it."""

    column: str  #: the manifest's column with the day of the event, or with yes and no
    until: str = "first"  #: which films are used: ``admission`` or ``first``
    horizon: float = 14.0  #: number of days after the origin; an event within these days gives the label ``yes``

    def note(self) -> str:
        """Return the outcome as text, for a model's config."""
        return json.dumps([self.column, self.until, self.horizon])

    @classmethod
    def from_note(cls, text: str) -> Outcome | None:
        """Return the outcome in a text that `note` wrote; None for ``""``. The text is checked: it may be untrusted.

        >>> Outcome.from_note(Outcome("icu_day").note())
        Outcome(column='icu_day', until='first', horizon=14.0)

        Raises:
            UserError: The text is not an outcome.
        """
        if not text:
            return None
        try:
            column, until, horizon = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            column, until, horizon = "", "", 0
        known = isinstance(column, str) and column and until in UNTIL and isinstance(horizon, int | float)
        if not known or not 0 < horizon < math.inf:
            choice = " or ".join(f'"{name}"' for name in UNTIL)
            raise UserError(
                f"the model states its outcome as {text!r:.60}; expected a JSON list of three values: the column, "
                f"{choice}, and a positive number of days"
            )
        return cls(column, until, float(horizon))


class Fate(NamedTuple):
    """What is known of a patient's outcome."""

    event: bool  #: whether the patient had the event
    day: float | None = None  #: the day of the first event; None if there was no event, or its day is not known
    followed: float | None = None  #: the last day of follow-up; infinite after a death; None if not known


@dataclass(frozen=True)
class Course:
    """The outcomes of the patients of a data set."""

    outcome: Outcome
    fates: Mapping[str, Fate]  #: `patient_key` -> what is known; patients about whom nothing is known are missing
    yes_no: bool  #: whether the column says yes or no, without a day
    notes: Sequence[str] = field(default_factory=tuple)  #: warnings about the column's values, one sentence each

    def at_risk(self, records: Sequence[Record]) -> tuple[list[Record], Lines, Lines]:
        """Return the films to use, a message for each film without a valid day, and one for each other unusable film.

        A valid day is a number. With ``yes_no`` and ``until="first"``, a film needs no day. Films of patients who are
        not in ``fates`` are left out without a message.
        """
        kept, problems, late = [], [], []
        for record in records:
            fate = self.fates.get(_key(record))
            if fate is None:
                continue
            day = day_of(record)
            if day is None and not (self.yes_no and self.outcome.until == "first"):
                problems.append(record.problem(f"day {record.metadata.get(DAY, '')!r:.20} is not a number: left out"))
            elif reason := self._too_late(fate, day or 0.0):
                late.append(record.problem(reason))
            else:
                kept.append(record)
        return kept, problems, late

    def _too_late(self, fate: Fate, day: float) -> str:
        """Return why a film of this day must not be used; ``""`` if it may."""
        at, column = fate.day, self.outcome.column
        if at is not None and day >= at:
            return f"day {day:g}, and {column} is {at:g}: taken {'on the day of' if day == at else 'after'} the event"
        if self.outcome.until == "admission" and day > 0:
            return f"day {day:g}: taken after the admission"
        if self.outcome.until == "admission" and at is not None and at <= 0:
            return f"{column} is {at:g}: at the admission, the patient was no longer at risk"
        return ""

    def label(self, records: Sequence[Record], unit: str = "image") -> tuple[list[Record], Lines]:
        """Return films (from `at_risk`) with labels, and a line for each censored bag, whose films are left out.

        All films of a bag (see `cvrnet.data.studies.group_studies`) get one label. A bag is censored if the patient's
        follow-up is known to end before the last day of the horizon, and no event of the patient is known.
        """
        bags: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            bags.setdefault((_key(record), _bag(record, unit)), []).append(record)
        labels: dict[tuple[str, str], str] = {}
        censored = []
        for (patient, bag), films in bags.items():
            fate, end = self.fates[patient], self._origin(films) + self.outcome.horizon
            if self.yes_no or fate.event:
                labels[patient, bag] = YES if fate.event and (fate.day is None or fate.day <= end) else NO
            elif fate.followed is None or fate.followed >= end:
                labels[patient, bag] = NO
            else:
                line = f"followed until day {fate.followed:g}, but the horizon ends on day {end:g}: censored"
                censored.append(films[0].problem(line))
        keys = [(_key(record), _bag(record, unit)) for record in records]
        found = [replace(r, label=labels[key]) for r, key in zip(records, keys, strict=True) if key in labels]
        return found, censored

    def _origin(self, films: Sequence[Record]) -> float:
        return 0.0 if self.outcome.until == "admission" else max(day_of(film) or 0.0 for film in films)


def read_course(records: Sequence[Record], outcome: Outcome) -> tuple[Course, Lines]:
    """Read the patients' outcomes; also return a line for each patient whose cells are invalid or contradictory.

    Such patients are left out. The cells of a patient's films are combined. A cell of the outcome's column is the day
    of the event, on the scale of the column ``day``; of several days, the earliest counts. If no cell is a number, the
    cells may be yes or no. An empty cell means no event or, in a column of yes and no, that nothing is known.

    Raises:
        UserError: The outcome's column is missing, is empty, or has neither days nor yes and no; or the column ``day``
            is needed and missing.
    """
    _check_columns(records, outcome)
    cells: dict[str, dict[str, list[str]]] = {}
    for record in records:
        mine = cells.setdefault(_key(record), {name: [] for name in (outcome.column, DEATH, FOLLOWED)})
        for name in mine:
            cell = clean(record.metadata.get(name, ""))
            mine[name] += [] if is_missing(cell) else [cell]
    stated = [cell for mine in cells.values() for cell in mine[outcome.column]]
    if not stated:
        raise UserError(f"--outcome {outcome.column}: every cell is empty; expected days of events, or yes and no")
    yes_no = not any(day_number(cell) is not None for cell in stated)
    if yes_no and not any(cell.lower() in _WORDS for cell in stated):
        raise UserError(f"--outcome {outcome.column}: cell {stated[0]!r:.20} is neither a day (a number) nor yes or no")
    fates, problems = {}, []
    shown = {_key(record): record for record in reversed(records)}
    for patient, mine in cells.items():
        fate = _yes_or_no(mine[outcome.column]) if yes_no else _fate(mine, outcome.column)
        if isinstance(fate, Fate):
            fates[patient] = fate
        elif fate:
            who = shown[patient].patient_id or shown[patient].name
            problems.append(f"patient {printable(who)}: {fate}: left out")
    return Course(outcome, fates, yes_no, _notes(outcome, stated, yes_no)), problems


def _check_columns(records: Sequence[Record], outcome: Outcome) -> None:
    columns = list(dict.fromkeys(name for record in records for name in record.metadata))
    if outcome.column not in columns or outcome.column == DAY:
        found = ", ".join([name for name in columns if name != DAY][:_SHOWN]) or "none"
        why = "expected a manifest column that states the event"
        raise UserError(f"--outcome {outcome.column}: {why}; columns to choose from: {found}")
    numbers = any(day_number(clean(r.metadata.get(outcome.column, ""))) is not None for r in records)
    if DAY not in columns and (numbers or outcome.until == "admission"):
        raise UserError(
            f"--outcome {outcome.column} needs the column day, the day of each film; if this column has another name, "
            "use --columns day=NAME"
        )


def _fate(cells: Mapping[str, list[str]], column: str) -> Fate | str:
    """Return what is known of a patient, or why the cells cannot be used."""
    days: dict[str, list[float]] = {}
    for name, texts in cells.items():
        numbers = [day_number(text) for text in texts]
        if None in numbers:
            return f"{name} {texts[numbers.index(None)]!r:.20} is not a number"
        days[name] = [number for number in numbers if number is not None]
    events, died = days[column], column != DEATH and bool(days[DEATH])
    followed = math.inf if died else max(days[FOLLOWED], default=None)
    return Fate(bool(events), min(events, default=None), followed)


def _yes_or_no(cells: Sequence[str]) -> Fate | str:
    """Like `_fate`, but for a column of yes and no; ``""`` if nothing is known."""
    answers = {_WORDS.get(cell.lower(), cell) for cell in cells}
    if texts := [answer for answer in answers if isinstance(answer, str)]:
        return f"{min(texts)!r:.20} is neither yes nor no"
    if len(answers) > 1:
        return "cells with yes and cells with no; expected one answer"
    return Fate(True in answers) if answers else ""


def _notes(outcome: Outcome, cells: Sequence[str], yes_no: bool) -> tuple[str, ...]:
    if yes_no:
        return (
            f"{outcome.column} says yes or no, without a day: it is not known which films were taken after the event, "
            "so a leak cannot be excluded, and the horizon has no effect",
        )
    if {day_number(cell) for cell in cells} == {0.0, 1.0}:
        return (
            f"{outcome.column} has only 0 and 1, which are read as days; if they mean no and yes, write no and yes",
        )
    return ()


def describe_course(
    course: Course,
    records: Sequence[Record],
    kept: Sequence[Record],
    late: Sequence[str],
    censored: Sequence[str],
    unit: str = "image",
) -> dict[str, Any]:
    """Return the value of ``outcome`` in run.json: the outcome, and the numbers of films, patients and events.

    ``records`` are all films, and ``kept`` the films with a label. ``late`` has a line for each film that is not
    used because of its day or the day of the event, and ``censored`` a line for each censored bag.
    """
    yes = {_key(record) for record in kept if record.label == YES}
    no = {_key(record) for record in kept} - yes
    after = films_after(course, records)
    return {
        "column": course.outcome.column,
        "until": course.outcome.until,
        "horizon": course.outcome.horizon,
        "unit": unit,
        "yes_no": course.yes_no,
        "films": len(records),
        "patients": len({_key(record) for record in records}),
        "events": sum(fate.event for fate in course.fates.values()),
        "kept_films": len(kept),
        "kept_patients": len(yes | no),
        "kept_events": len(yes),
        "later_events": sum(course.fates[patient].event for patient in no),
        "deaths": sum(course.fates[patient].followed == math.inf for patient in no),
        "not_followed": sum(course.fates[p].followed is None and not course.fates[p].event for p in no),
        "films_after": len(after),
        "patients_after": len({_key(record) for record in after}),
        "notes": list(course.notes),
        "late": list(late),
        "censored": list(censored),
    }


def view_score(view: str) -> float:
    """Return 1 for AP (mostly taken at the bedside of patients who cannot stand), 0 for PA, and 0.5 for other views.

    >>> view_score("AP Supine"), view_score("pa"), view_score("")
    (1.0, 0.0, 0.5)
    """
    return {"AP": 1.0, "PA": 0.0}.get(view.strip()[:2].upper(), 0.5)


def films_after(course: Course, records: Sequence[Record]) -> list[Record]:
    """Return the films that were taken on the day of their patient's event, or later."""
    pairs = [(record, day_of(record), course.fates.get(_key(record), Fate(False)).day) for record in records]
    return [record for record, day, event in pairs if day is not None and event is not None and day >= event]


def _key(record: Record) -> str:
    return patient_key(record.patient_id, record.name)


def _bag(record: Record, unit: str) -> str:
    return record.name if unit == "image" else record.metadata.get(STUDY, "") if unit == "study" else ""
