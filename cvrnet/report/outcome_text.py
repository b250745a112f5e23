"""Write sentences about a predicted event: which data were kept, and whether they are enough for a validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cvrnet.data.outcomes import FOLLOWED, YES
from cvrnet.formatting import count
from cvrnet.runs.predictions import PredictionTable

ENOUGH = 100  #: least number of patients with the event, and also of patients without it, for an external validation


def outcome_sentences(outcome: Mapping[str, Any]) -> list[str]:
    """Return sentences: how many radiographs were read, dropped (and why) and kept, from ``outcome`` in run.json."""
    o, event = outcome, outcome["column"]
    origin = "the admission (day 0)" if o["until"] == "admission" else "the radiograph"
    origin = "the last radiograph kept" if o["until"] == "first" and o["unit"] != "image" else origin
    in_time = "" if o["yes_no"] else f" within {o['horizon']:g} days of {origin}"
    unit = {"image": ("radiograph",), "study": ("study", "studies")}.get(o["unit"], ("patient",))
    others = len(o["late"]) - o["films_after"]
    lines = {
        f"Read: {count(o['patients'], 'patient')} with {count(o['films'], 'radiograph')}; "
        f"{_have(o['events'])} {event}.": True,
        f"Dropped, because they were taken on the day of {event} or later, which would be a leak: "
        f"{count(o['films_after'], 'radiograph')} of {count(o['patients_after'], 'patient')}.": o["films_after"],
        "Dropped, because they were taken after the admission, or because the patient was no longer at risk: "
        f"{count(others, 'radiograph')}.": others,
        f"Dropped, because the patient was not followed long enough (censored): {count(len(o['censored']), *unit)}.": o[
            "censored"
        ],
        f"Left: {count(o['kept_patients'], 'patient')} with {count(o['kept_films'], 'radiograph')}; "
        f"{_have(o['kept_events'])} {event}{in_time}.": True,
        f"A later {event}, counted as no event: {count(o['later_events'], 'patient')}.": o["later_events"],
        f"No {event} given, counted as no event, although the time of follow-up is not known (column {FOLLOWED}): "
        f"{count(o['not_followed'], 'patient')}.": o["not_followed"] and not o["yes_no"],
        f"Died without {event}, counted as no event: {count(o['deaths'], 'patient')}.": o["deaths"],
    }
    return [line for line, shown in lines.items() if shown]


def _have(patients: int) -> str:
    return f"{count(patients, 'patient')} {'has' if patients == 1 else 'have'}"


def event_patients(table: PredictionTable) -> tuple[int, int]:
    """Return the number of patients with the event in at least one row, and the number of all other patients."""
    truth, patients = table.truth(table.classes.index(YES)) == 1, np.array(table.groups)
    events = {*patients[truth].tolist()}
    return len(events), len({*patients.tolist()} - events)


def evidence_sentence(events: int, others: int) -> str:
    """Return a sentence that says whether there are enough patients with the event, and without it, for a validation.

    Sources: Vergouwe et al. 2005 (J Clin Epidemiol 58:475), Collins et al. 2016 (Stat Med 35:214), Riley et al. 2020
    (BMJ 368:m441).
    """
    rule = (
        f"a validation needs at least {ENOUGH} patients with the event and {ENOUGH} without (Vergouwe et al. 2005, "
        "Collins et al. 2016), and the development of a model usually needs more (Riley et al. 2020)"
    )
    if min(events, others) < ENOUGH:
        return f"{count(events + others, 'patient')}, {events:,} of them with the event, prove nothing: {rule}."
    return f"{events:,} patients with the event and {others:,} without are enough for a validation: {rule}."
