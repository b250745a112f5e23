"""Sentences about the patients whose event is foretold: how many there are, and what they can prove."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENOUGH = 100  #: patients with the event, and as many without, for an external validation


def outcome_sentences(outcome: Mapping[str, Any]) -> list[str]:
    """What was kept, and why other films were not; ``outcome`` is the key of run.json."""
    o, event = outcome, f"{outcome['column']}"
    horizon = "" if o["yes_no"] else f" within {o['horizon']:g} days"
    origin = "the admission (day 0)" if o["until"] == "admission" else "the film"
    origin = "the last film kept" if o["until"] == "first" and o["unit"] != "image" else origin
    sentences = [f"{o['patients']:,} patients with {o['films']:,} films; {o['events']:,} patients have {event}."]
    if o["films_after"]:
        sentences.append(
            f"{o['films_after']:,} films of {o['patients_after']:,} patients are of the day of {event} or later, which "
            "would be a leak: dropped."
        )
    if others := len(o["late"]) - o["films_after"]:
        sentences.append(f"{others:,} further films are from after the admission, or of patients not at risk: dropped.")
    if o["censored"]:
        sentences.append(f"{len(o['censored']):,} patients or films are censored (not followed long enough): dropped.")
    sentences.append(
        f"Left: {o['kept_patients']:,} patients with {o['kept_films']:,} films; {o['kept_events']:,} of them have "
        f"{event}{horizon}"
        + ("." if o["yes_no"] else f" of the day of {origin}.")
        + (f" Of the others, {o['later_events']:,} had it later; they count as no." if o["later_events"] else "")
    )
    if not o["yes_no"] and o["not_followed"]:
        sentences.append(
            f"{o['not_followed']:,} patients count as no because their {event} is empty; how long they were followed "
            "is not known (column followup_day)."
        )
    if o["deaths"]:
        sentences.append(f"{o['deaths']:,} patients without the event died, and count as no.")
    return sentences


def evidence_sentence(events: int, others: int) -> str:
    """What so many patients with the event, and without it, can prove.

    Vergouwe et al. 2005 (J Clin Epidemiol 58:475), Collins et al. 2016 (Stat Med 35:214), Riley et al. 2020 (BMJ
    368:m441).
    """
    rule = (
        f"a validation takes at least {ENOUGH} patients with the event and {ENOUGH} without (Vergouwe et al. 2005, "
        "Collins et al. 2016), and developing a model usually more (Riley et al. 2020)"
    )
    if min(events, others) < ENOUGH:
        return f"{events + others:,} patients, {events:,} of them with the event, prove nothing: {rule}."
    return f"{events:,} patients with the event and {others:,} without are enough for a first look: {rule}."
